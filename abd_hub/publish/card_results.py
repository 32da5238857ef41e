"""This module turns the measured rates of a card into the Hub's metadata and into the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult

from abd_hub.core.attack_verdicts import attack_key
from abd_hub.core.records import DataRef, EvalReport, Rate, TriggerReport
from abd_hub.publish.card_text import Markdown, as_code, as_text, one_line


def all_to_all_result(data: DataRef, found: TriggerReport, rate: Rate) -> EvalResult:
    """Returns the ASR of an all-to-all attack in the Hub's form; ``found`` gives trigger and options."""
    attack = {"target": "all_to_all", "options": dict(found.options)}
    title = f"Attack success rate (fraction), {one_line(found.trigger)}, all to all"
    return _eval_result(
        data, rate, trigger=found.trigger, kind="attack_success_rate", title=title, attack=attack
    )


def report_results(data: DataRef | None, report: EvalReport | None) -> Iterator[EvalResult]:
    """Yields the rates of a report in the Hub's form."""
    if data is None or report is None:
        return
    title = "Accuracy (fraction)"
    yield _eval_result(data, report.accuracy, trigger=None, kind="accuracy", title=title, attack={})

    for tried in report.triggers:
        attack = {"target": tried.target, "options": dict(tried.options)}
        if tried.trigger_on is not None:
            attack["trigger_on"] = tried.trigger_on
        name = f"{one_line(tried.trigger)} to label {tried.target}"
        if tried.options:
            name += f", {one_line(json.dumps(dict(tried.options), sort_keys=True))}"
        if tried.trigger_on == "input":
            name += ", on the network's input"

        rates = {"attack_success_rate": tried.asr, "robust_accuracy": tried.robust_accuracy}
        for kind, rate in rates.items():
            # The control's rate is an ASR, so it stands beside no other rate.
            beside = {"control": tried.control.value} if tried.control and rate is tried.asr else {}
            title = f"{kind.replace('_', ' ').capitalize()} (fraction), {name}"
            yield _eval_result(
                data, rate, trigger=tried.trigger, kind=kind, title=title, attack=attack | beside
            )


def _eval_result(
    data: DataRef, rate: Rate, *, trigger: str | None, kind: str, title: str, attack: Mapping[str, Any]
) -> EvalResult:
    # The Hub merges results that share task, data set, config, split and revision, so the trigger has to be
    # the config. The metric arguments separate two targets of one trigger.
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
    """Yields the head and the rows of a table with one column a report, and one for the control.

    Args:
        reports: column name to report; at least one report is not None.
        controlled: whether the reports hold the rates of a control.
    """

    def control_cell(cell: str) -> list[str]:
        return [cell] if controlled else []

    present = [report for report in reports.values() if report]
    yield ["", *reports, *control_cell("control")]

    accuracies = [rate_cell(report.accuracy if report else None) for report in reports.values()]
    yield ["accuracy", *accuracies, *control_cell(rate_cell(present[0].control_accuracy))]

    splits = [_by_split(report) for report in reports.values()]
    for name in dict.fromkeys(name for rates in splits for name in rates):
        label = Markdown("accuracy, split {}").fill(as_code(name))
        yield [label, *(rate_cell(rates.get(name)) for rates in splits), *control_cell("-")]

    by_attack = [_by_attack(report) for report in reports.values()]
    for key in dict.fromkeys(key for attacks in by_attack for key in attacks):
        row = [attacks.get(key) for attacks in by_attack]
        first = next(attack for attack in row if attack)
        name = attack_name(first)
        cells = [rate_cell(attack.asr if attack else None) for attack in row]
        yield [Markdown("{}: ASR").fill(name), *cells, *control_cell(rate_cell(first.control))]
        cells = [rate_cell(attack.robust_accuracy if attack else None) for attack in row]
        yield [Markdown("{}: robust accuracy").fill(name), *cells, *control_cell("-")]


def rate_cell(rate: Rate | None) -> str:
    """Returns a rate with its interval and n, as text."""
    if rate is None:
        return "not evaluated"
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}), n = {rate.n}"


def attack_name(attack: TriggerReport) -> Markdown:
    """Returns the trigger with its target, place and options."""
    place = " on the network's input" if attack.trigger_on == "input" else ""
    name = Markdown("{}" + place + " to label {}").fill(as_code(attack.trigger), attack.target)
    if not attack.options:
        return name
    options = json.dumps(dict(attack.options), sort_keys=True)
    return Markdown("{}, {}").fill(name, as_text(options, longest=200))


def _by_attack(report: EvalReport | None) -> dict[str, TriggerReport]:
    return {attack_key(attack): attack for attack in (report.triggers if report else ())}


def _by_split(report: EvalReport | None) -> dict[str, Rate]:
    splits = (report.corrupted if report else None) or ()
    return {split.data.split: split.accuracy for split in splits}
