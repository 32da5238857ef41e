"""Reads and writes durations as people do: 90s, 20m, 1h30m."""

from __future__ import annotations

import math
import re

from abd_hub.core.errors import InputError

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_LONGEST = 366 * 24 * 3600


def parse_duration(text: str, field: str) -> float:
    """Returns the seconds of a duration such as 90s, 20m, 2h or 1h30m.

    Args:
        text: numbers with their units, the largest unit first.
        field: the name that the error begins with.

    Raises:
        InputError: the text is no such duration, or it is not between a second and a year.
    """
    found = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or not any(found.groups()):
        raise InputError(f"{field}: must be a time such as 90s, 20m or 1h30m, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    duration = 3600 * hours + 60 * minutes + seconds
    if not 1 <= duration <= _LONGEST:
        raise InputError(f"{field}: must be between a second and a year, got {text!r}")
    return duration


def format_duration(seconds: float) -> str:
    """Returns a duration in words of its two largest units, such as "1 h 30 min" or "3 min 20 s"."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        hours, minutes = divmod(math.floor(whole / 60), 60)
        return f"{hours} h {minutes} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
