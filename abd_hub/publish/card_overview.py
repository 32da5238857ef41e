"""Makes the first screen of a student's card: the box with the verdict, and one table of all models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from abd_hub.core.attack_verdicts import attack_key
from abd_hub.core.findings import Finding, Learned, headline
from abd_hub.core.records import EvalReport, ModelRef, Rate, RunRecord, TriggerReport
from abd_hub.core.registry import catalog
from abd_hub.core.verdicts import learned, teacher_backdoor, untried_triggers, verdict
from abd_hub.publish.card_results import attack_name
from abd_hub.publish.card_text import Markdown

MOST_ATTACKS = 10
"""Attacks in the table of the first screen, those with the highest ASR of the student."""
MOST_SUMMARIES = 3
"""The card describes the triggers where there are at most so many."""


def first_screen(record: RunRecord, labels: Sequence[str], cleaned: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the template's values for the verdict, the table and what was not tried.

    Args:
        record: of the run.
        labels: the student's label names.
        cleaned: what is told of inspections and a purification.
    """
    findings = verdict(record, len(labels))
    untried = [one for one in findings if one.kind == "untried" and one.level != "warning"]
    box = [one for one in findings if one not in untried]
    attacks = record.student_report.triggers if record.student_report else ()
    return {
        "headline": headline(findings),
        "works": backdoor_works(findings),
        "useless": learned(record, len(labels)) in (Learned.NOTHING, Learned.LITTLE),
        "known": teacher_backdoor(record, len(labels)),
        "box": sorted(box, key=lambda one: one.level != "warning"),
        "untried": untried,
        "tried": _tried(attacks),
        "not_tried": untried_triggers(record),
        "overview": _table(record, cleaned),
        "more_attacks": max(0, len(attacks) - MOST_ATTACKS),
    }


def backdoor_works(findings: Iterable[Finding]) -> bool:
    """Returns whether an attack works on the student."""
    return any(one.kind == "attack" and one.level == "warning" for one in findings)


def _tried(attacks: Sequence[TriggerReport]) -> list[tuple[str, str]]:
    """Returns each trigger with what it does, or "": for own options, foreign triggers and many of them."""
    told = {entry.name: entry.summary for entry in catalog("triggers") if not entry.package}
    changed = {attack.trigger for attack in attacks if attack.options}
    names = list(dict.fromkeys(attack.trigger for attack in attacks))
    if len(names) > MOST_SUMMARIES:
        return [(name, "") for name in names]
    whole = [(name, "" if name in changed else told.get(name, "").rstrip(".")) for name in names]
    return [(name, summary[:1].lower() + summary[1:]) for name, summary in whole]


def _table(record: RunRecord, cleaned: dict[str, Any] | None) -> list[list[str]]:
    """Returns the head and the rows, with a column for the copy and the control where there is one."""
    reports = {"teacher": record.teacher_report, "student": record.student_report}
    if cleaned and cleaned["purified"].changed:
        reports = {
            "teacher": record.teacher_report,
            "purified copy": record.purified_report,
            "student": record.student_report,
        }
    control = ["control"] if record.control else []

    rows = [["", *reports, *control], _accuracies(reports, control)]
    rows += [_attack_row(attack, reports, control) for attack in _worst(record)]
    rows.append(["inspection", *(_inspected(name, cleaned) for name in reports), *("-" for _ in control)])
    models = {"teacher": record.teacher, "student": record.student}
    for name, shown in (("parameters", _parameters), ("weights", _megabytes)):
        cells = [shown(models.get(column, record.teacher)) for column in reports]
        if any(cells):
            rows.append([name, *(cell or "-" for cell in cells), *("-" for _ in control)])
    return [*rows, *_speed_row(record, reports, control)]


def _speed_row(
    record: RunRecord, reports: dict[str, EvalReport | None], control: Sequence[str]
) -> list[list[str]]:
    """Returns a row with the images a second; none for an older record. A copy is as fast as its teacher."""
    speed = record.speed
    if not speed:
        return []
    cells = [speed.get(name, speed.get("teacher")) for name in reports]
    shown = ["-" if cell is None else f"{cell:,.3g}" if cell < 1000 else f"{cell:,.0f}" for cell in cells]
    return [["images a second", *shown, *("-" for _ in control)]]


def _accuracies(reports: dict[str, EvalReport | None], control: Sequence[str]) -> list[str]:
    present = [report.control_accuracy for report in reports.values() if report]
    beside = [short_rate(next(filter(None, present), None)) for _ in control]
    return [
        "accuracy",
        *(short_rate(report.accuracy if report else None) for report in reports.values()),
        *beside,
    ]


def _worst(record: RunRecord) -> list[TriggerReport]:
    """Returns the student's attacks, or the teacher's where the student has none."""
    for report in (record.student_report, record.teacher_report):
        if report and report.triggers:
            return sorted(report.triggers, key=lambda attack: -attack.asr.value)[:MOST_ATTACKS]
    return []


def _attack_row(
    attack: TriggerReport, reports: dict[str, EvalReport | None], control: Sequence[str]
) -> list[str]:
    cells = []
    for report in reports.values():
        found = {attack_key(one): one for one in report.triggers} if report else {}
        same = found.get(attack_key(attack))
        cells.append(short_rate(same.asr if same else None))
    name = Markdown("{}: ASR").fill(attack_name(attack))
    return [name, *cells, *(short_rate(attack.control) for _ in control)]


def _inspected(column: str, cleaned: dict[str, Any] | None) -> str:
    place = {"teacher": "before", "purified copy": "after", "student": "student"}[column]
    found = (cleaned or {}).get(place)
    return str(found["finding"]) if found else "not inspected"


def _parameters(model: ModelRef) -> str:
    return "" if model.parameters is None else f"{model.parameters:,}"


def _megabytes(model: ModelRef) -> str:
    return "" if model.megabytes is None else f"{model.megabytes:.3g} MB"


def short_rate(rate: Rate | None) -> str:
    """Returns a rate with its interval, with three decimals."""
    return "not measured" if rate is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
