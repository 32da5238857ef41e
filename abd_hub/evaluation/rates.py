"""Rates with their intervals, and rates of a whole report beside another's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from abd_hub.core.errors import InputError
from abd_hub.core.records import EvalReport, Rate

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(count: int, n: int) -> Rate:
    """``count`` out of ``n`` with its 95 % Wilson score interval (Wilson, 1927).

    Raises:
        InputError: n is 0, or count is not within 0..n.
    """
    if n < 1:
        raise InputError("a rate needs at least one image")
    if not 0 <= count <= n:
        raise InputError(f"count {count} is not within 0..{n}")
    share, square = count / n, Z95**2
    center = (share + square / (2 * n)) / (1 + square / n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    # The bound at an edge is the edge itself; rounding would leave it a hair off.
    low = 0.0 if count == 0 else center - reach
    high = 1.0 if count == n else center + reach
    return Rate(share, count, n, low, high)


def with_control(report: EvalReport, control: EvalReport) -> EvalReport:
    """``report`` with the rates of a control beside its own.

    Args:
        report: of the classifier in question.
        control: of a classifier without the backdoor (a clean teacher, or a student that learned from
            clean data), from ``evaluate`` on the same images with the same attacks. Its ASR is how often
            it chooses the target on the same triggered images: the level that needs no backdoor.

    Raises:
        InputError: the two were measured on other images or attacks.
    """
    if report.accuracy.n != control.accuracy.n or _attacks_of(report) != _attacks_of(control):
        raise InputError("control: it was measured on other images or attacks; measure it on the same")
    triggers = tuple(
        replace(attacked, control=other.asr)
        for attacked, other in zip(report.triggers, control.triggers, strict=True)
    )
    return replace(report, triggers=triggers, control_accuracy=control.accuracy)


def all_to_all_rate(report: EvalReport) -> Rate:
    """ASR of an all-to-all attack: the share of all images given the class after their own once triggered.

    Args:
        report: with ``per_class``, of one trigger with every class as target in the order of the labels.

    Raises:
        ValueError: the report is not of that kind.
    """
    rows = report.per_class or ()
    if [attacked.target for attacked in report.triggers] != list(range(len(rows))):
        raise ValueError("all-to-all needs counts by class and an attack for every target, in order")
    hits = sum(row.attacks[(row.label + 1) % len(rows)].hits for row in rows)
    return wilson(hits, report.accuracy.n)


def _attacks_of(report: EvalReport) -> list[tuple[str, int, Mapping[str, Any], int]]:
    return [
        (attacked.trigger, attacked.target, attacked.options, attacked.asr.n) for attacked in report.triggers
    ]
