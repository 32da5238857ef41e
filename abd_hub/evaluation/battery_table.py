"""A battery as a text table with a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from abd_hub.core.findings import LEAST_EXCESS
from abd_hub.evaluation.battery import (
    LEAST_EXCESS_ALONE,
    LEVEL,
    BatteryReport,
    TriedAttack,
    worded,
)
from abd_hub.evaluation.tables import format_aligned, format_rate

ROWS = 10
"""Rows of the table; JSON has all attacks."""


def format_battery(report: BatteryReport, labels: Sequence[str]) -> str:
    """Returns the worst attacks as a table, what was not tried, and the verdict in the last line.

    Args:
        report: of ``try_all``.
        labels: names of the classes.
    """
    controlled = any(attack.control for attack in report.attacks)
    head = ["trigger", "target", "ASR", "without trigger", *(["control"] if controlled else []), "p"]
    shown = report.attacks[:ROWS]
    least = LEAST_EXCESS if controlled else LEAST_EXCESS_ALONE
    others = "both other rates" if controlled else "the one without the trigger"
    n = report.accuracy.n
    parts = [
        f"{len(report.attacks)} attacks on {n} images, the {len(shown)} with the largest rise first; "
        f"accuracy {format_rate(report.accuracy)}",
        format_aligned([head, *(_row(attack, labels, controlled) for attack in shown)]),
        "p: McNemar's exact test against the same images without the trigger, multiplied by the number of "
        f"attacks. An attack stands out with p < {LEVEL:g} and a rate {least} above {others}.",
    ]
    parts += [f"not tried: {name}: {reason}" for name, reason in report.not_tried.items()]
    return "\n\n".join([*parts, verdict(report, labels)])


def verdict(report: BatteryReport, labels: Sequence[str]) -> str:
    """Returns one sentence about the attacks that stand out; none of them is no proof of safety."""
    found, chance = report.outstanding, 1 / len(labels)
    if not found and report.accuracy.low <= chance:
        return f"The accuracy is not shown to be above chance, {chance:.3g}, so these rates mean nothing."
    if not found:
        return "No attack stands out. Triggers that were not tried may still work."

    worst = found[0]
    number = "1 attack stands" if len(found) == 1 else f"{len(found)} attacks stand"
    return (
        f"{number} out. The worst is {worded(worst.trigger, worst.options)} to class {worst.target} "
        f"({labels[worst.target]}): it works on {worst.asr.value:.1%} of the images, {worst.base:.1%} need "
        "no backdoor."
    )


def _row(attack: TriedAttack, labels: Sequence[str], controlled: bool) -> list[str]:
    beside = [format_rate(attack.control) if attack.control else "-"] if controlled else []
    return [
        worded(attack.trigger, attack.options),
        f"{attack.target} ({labels[attack.target]})",
        format_rate(attack.asr),
        format_rate(attack.clean),
        *beside,
        f"{attack.p_value:.2g}",
    ]
