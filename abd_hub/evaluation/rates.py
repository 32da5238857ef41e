"""Rates with their intervals, and reports with the rates of a control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from abd_hub.core.errors import InputError
from abd_hub.core.records import EvalReport, Rate

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(count: int, n: int) -> Rate:
    """Returns ``count`` out of ``n`` with its 95 % Wilson score interval (Wilson, 1927).

    Raises:
        InputError: n is 0, or count is not within 0..n.
    """
    if n < 1:
        raise InputError(f"n: must be at least 1 for a rate, got {n}; use one image or more")
    if not 0 <= count <= n:
        raise InputError(f"count: must be from 0 to {n}, got {count}; use a count of these images")

    share, square = count / n, Z95**2
    center = (share + square / (2 * n)) / (1 + square / n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)

    # The bound at an edge is exactly the edge; rounding would shift it slightly.
    low = 0.0 if count == 0 else center - reach
    high = 1.0 if count == n else center + reach
    return Rate(share, count, n, low, high)


def with_control(report: EvalReport, control: EvalReport) -> EvalReport:
    """Returns ``report`` with the rates of a control beside its own.

    Args:
        report: report of the measured classifier.
        control: report of a classifier without the backdoor, from ``evaluate`` on the same images with the
            same attacks. Such a classifier is a clean teacher, or a student that learned from clean data.
            Its ASR is the level that needs no backdoor.

    Raises:
        InputError: the two reports are of different images or attacks.
    """
    if report.accuracy.n != control.accuracy.n or _attacks_of(report) != _attacks_of(control):
        raise InputError(
            "control: was measured on other images or attacks than the report; measure both on the same ones"
        )

    triggers = tuple(
        replace(attacked, control=other.asr)
        for attacked, other in zip(report.triggers, control.triggers, strict=True)
    )
    return replace(report, triggers=triggers, control_accuracy=control.accuracy)


def all_to_all_rate(report: EvalReport) -> Rate:
    """Returns the ASR of an all-to-all attack, the share of images that get the next class when triggered.

    Args:
        report: report with ``per_class`` of one trigger; every class is a target, in the order of the labels.

    Raises:
        ValueError: the report is of another kind.
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
