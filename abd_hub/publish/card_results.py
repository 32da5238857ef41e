"""The measured rates of a card: as the Hub's metadata, and as the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult

from abd_hub.core.records import DataRef, EvalReport, Rate, TriggerReport
from abd_hub.publish.card_text import Markdown, as_code, as_text, one_line


def all_to_all_result(data: DataRef, found: TriggerReport, rate: Rate) -> EvalResult:
    """The ASR of an all-to-all attack as the Hub knows it; ``found`` tells trigger and options."""
    attack = {"target": "all_to_all", "options": dict(found.options)}
    title = f"Attack success rate (fraction), {one_line(found.trigger)}, all to all"
    return _eval_result(
        data, rate, trigger=found.trigger, kind="attack_success_rate", title=title, attack=attack
    )


def report_results(data: DataRef | None, report: EvalReport | None) -> Iterator[EvalResult]:
    """The rates of a report as the Hub knows them."""
    if data is None or report is None:
        return
    title = "Accuracy (fraction)"
    yield _eval_result(data, report.accuracy, trigger=None, kind="accuracy", title=title, attack={})
    for found in report.triggers:
        attack = {"target": found.target, "options": dict(found.options)}
        rates = {"attack_success_rate": found.asr, "robust_accuracy": found.robust_accuracy}
        if found.control is not None:
            attack["control"] = found.control.value
        for kind, rate in rates.items():
            name = f"{one_line(found.trigger)} to label {found.target}"
            if found.options:
                name += f", {one_line(json.dumps(dict(found.options), sort_keys=True))}"
            title = f"{kind.replace('_', ' ').capitalize()} (fraction), {name}"
            yield _eval_result(data, rate, trigger=found.trigger, kind=kind, title=title, attack=attack)


def _eval_result(
    data: DataRef, rate: Rate, *, trigger: str | None, kind: str, title: str, attack: Mapping[str, Any]
) -> EvalResult:
    # The Hub merges results that share task, data set, config, split and revision: the trigger has to be
    # the config. Two targets of one trigger stay apart by their metric arguments.
    return EvalResult(
        task_type="image-classification",
        dataset_type=one_line(data.id),
        dataset_name=one_line(data.id),
        dataset_config=None if trigger is None else one_line(trigger),
        dataset_split=one_line(data.split),
        dataset_revision=data.revision,
        metric_type=kind,
        metric_name=title,
        metric_value=rate.value,
        metric_args={**attack, "n": rate.n, "low": rate.low, "high": rate.high},
    )


def result_rows(reports: Mapping[str, EvalReport | None], *, controlled: bool) -> Iterator[list[str]]:
    """Head and rows of a table with a column a report, and one of the control where there is one.

    Args:
        reports: column name to report; at least one is not None.
        controlled: whether the reports hold the rates of a control.
    """

    def beside(cell: str) -> list[str]:
        return [cell] if controlled else []

    present = [report for report in reports.values() if report]
    yield ["", *reports, *beside("control")]
    accuracies = [rate_cell(report.accuracy if report else None) for report in reports.values()]
    yield ["accuracy", *accuracies, *beside(rate_cell(present[0].control_accuracy))]
    splits = [_by_split(report) for report in reports.values()]
    for name in dict.fromkeys(name for found in splits for name in found):
        yield [
            Markdown("accuracy, split {}").fill(as_code(name)),
            *(rate_cell(found.get(name)) for found in splits),
            *beside("-"),
        ]
    by_attack = [_by_attack(report) for report in reports.values()]
    for key in dict.fromkeys(key for found in by_attack for key in found):
        row = [found.get(key) for found in by_attack]
        found = next(report for report in row if report)
        name = _attack_name(found)
        rates = [rate_cell(report.asr if report else None) for report in row]
        yield [Markdown("{}: ASR").fill(name), *rates, *beside(rate_cell(found.control))]
        rates = [rate_cell(report.robust_accuracy if report else None) for report in row]
        yield [Markdown("{}: robust accuracy").fill(name), *rates, *beside("-")]


def rate_cell(rate: Rate | None) -> str:
    """A rate with its interval and n."""
    if rate is None:
        return "not evaluated"
    return f"{rate.value:.4f} ({rate.low:.4f} to {rate.high:.4f}), n = {rate.n}"


def compared(teacher: EvalReport, student: EvalReport) -> dict[str, int]:
    """Counts the attacks on ``both``, and those whose ASR is ``lower`` on the student, intervals apart."""
    before, after = _by_attack(teacher), _by_attack(student)
    both = [key for key in after if key in before]
    return {"both": len(both), "lower": sum(after[key].asr.high < before[key].asr.low for key in both)}


def _attack_name(found: TriggerReport) -> Markdown:
    name = Markdown("{} to label {}").fill(as_code(found.trigger), found.target)
    if not found.options:
        return name
    options = json.dumps(dict(found.options), sort_keys=True)
    return Markdown("{}, {}").fill(name, as_text(options, longest=200))


def _by_attack(report: EvalReport | None) -> dict[str, TriggerReport]:
    triggers = report.triggers if report else ()
    return {json.dumps([t.trigger, t.target, dict(t.options)], sort_keys=True): t for t in triggers}


def _by_split(report: EvalReport | None) -> dict[str, Rate]:
    return {found.data.split: found.accuracy for found in (report.corrupted if report else None) or ()}
