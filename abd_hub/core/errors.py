"""Errors for the user: one line that names the field, the value and the remedy."""

from __future__ import annotations

import unicodedata

LONGEST_REASON = 200
"""Characters of what a library says that go into a message."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names field, value and remedy in one line."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


def one_line(text: str) -> str:
    """Returns the whole text on one line."""
    return " ".join(text.split())


def reason_of(error: BaseException) -> str:
    """Returns what an exception of a library says, in one line of bounded length; never an empty one."""
    text = one_line(str(error)) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."


def visible_line(text: str, longest: int) -> str:
    """Returns a stranger's text as one line of visible characters, cut at ``longest``; it is not escaped."""
    spaced = one_line(text[: 4 * longest])
    # Category C: control, bidirectional override, lone surrogate, unassigned.
    shown = "".join("\ufffd" if unicodedata.category(char)[0] == "C" else char for char in spaced)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
