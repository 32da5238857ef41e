"""Refuses numbers of a request that are not possible."""

from __future__ import annotations

from typing import Any

from abd_hub import InputError

MOST_MINUTES = 15.0
"""Limits the minutes of any run."""


def is_whole(field: str, value: Any, least: int, most: int) -> None:
    """Refuses what is no whole number from ``least`` to ``most``.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{field}: {value!r:.40} is not possible; use a whole number from {least} to {most}")


def within_minutes(field: str, value: Any) -> None:
    """Refuses what is no number above 0, up to ``MOST_MINUTES``.

    Raises:
        InputError: it is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= MOST_MINUTES:
        raise InputError(f"{field}: {value!r:.40} is not possible; use up to {MOST_MINUTES:g}")


def as_whole(value: Any) -> Any:
    """Returns a whole number as int; leaves anything else to the check that refuses it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
