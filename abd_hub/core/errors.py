"""An error for the user is one line that names the field, the value and the remedy."""

from __future__ import annotations

import unicodedata

LONGEST_REASON = 200
"""Characters of a library's message that go into ours."""


class InputError(ValueError):
    """Reports wrong input of the user. The message names field, value and remedy in one line."""


class Interrupted(Exception):
    """Reports that a run has stopped on request, after it wrote its checkpoint."""


def one_line(text: str) -> str:
    """Returns the whole text on one line."""
    return " ".join(text.split())


def reason_of(error: BaseException) -> str:
    """Returns the message of a library's exception in one line of bounded length, which is never empty."""
    text = one_line(str(error)) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."


def visible(text: str) -> str:
    """Returns a text in which no character moves the cursor, changes a color or turns the direction.

    Line ends and tabs stay. Category C holds control characters, bidirectional overrides, lone surrogates and
    unassigned codes.
    """
    return "".join(
        "\ufffd" if char not in "\n\t" and unicodedata.category(char)[0] == "C" else char for char in text
    )


def visible_line(text: str, longest: int) -> str:
    """Returns a stranger's text as one line of visible characters, cut at ``longest``; it is not escaped."""
    shown = visible(one_line(text[: 4 * longest]))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
