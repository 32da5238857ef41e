"""An error for the user is one line that names the field, the value and the remedy."""

from __future__ import annotations

import unicodedata

LONGEST_REASON = 200
"""Characters of a library's message that go into ours."""
LONGEST_MESSAGE = 1000
"""Characters of a message, 12 lines of a terminal; a value may be a stranger's and have millions."""


class InputError(ValueError):
    """Reports wrong input of the user. The message names field, value and remedy in one line.

    Its text is visible and of bounded length, whatever the value holds. A long one is cut in the middle,
    because the field stands first and the remedy last.
    """

    def __str__(self) -> str:
        """Returns the message as one line."""
        text = visible(one_line(super().__str__()))
        half = LONGEST_MESSAGE // 2
        return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} … {text[3 - half :]}"


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
