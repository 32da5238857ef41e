"""An error for the user is one line that names the field, the value and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType

_ROOM, _RIGHT = "free some space", "give write permission"
_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _RIGHT),
    errno.EIO: "check the disk",
}
"""Remedies by the system's number of an error."""
LONGEST_REASON = 200
"""Characters of a library's message that go into ours."""
LONGEST_MESSAGE = 1000
"""Characters of a message, 12 lines of a terminal; a value may be a stranger's and have millions."""

FEW_NAMES = 5
"""Names that a refusal can list."""


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


class MissingOptions(InputError):
    """Reports all options that a source needs and lacks.

    Args:
        reason: says why they are needed.
        examples: a value for each option, as a user would type it.
        place: prefix of the options on the command line, such as "teacher."; None for Python's arguments.
    """

    def __init__(self, reason: str, examples: Mapping[str, str], place: str | None = None) -> None:
        self.reason, self.examples = reason, dict(examples)
        # Such a model scales its input itself, or does not scale it at all.
        raw = "; mean 0 and std 1 if the model takes raw pixels" if {"mean", "std"} & set(examples) else ""
        if place is None:
            shown = ", ".join(f"{name} (such as {value})" for name, value in examples.items())
            super().__init__(f"{', '.join(examples)}: {reason}; pass {shown}{raw}")
        else:
            shown = " ".join(f"--{place}{name} {shlex.quote(value)}" for name, value in examples.items())
            names = ", ".join(f"{place}{name}" for name in examples)
            own = ", with the numbers of your model" if {"mean", "std", "input_size"} & set(examples) else ""
            super().__init__(f"{names}: {reason}; give {shown}{own}{raw}")

    def typed(self, place: str) -> MissingOptions:
        """Returns the same error for the command line, where ``place`` is the prefix of the options."""
        return MissingOptions(self.reason, self.examples, place)


class Interrupted(Exception):
    """Reports that a run has stopped on request, after it wrote its checkpoint.

    Where nobody catches it, the program ends with one line, as the person who stopped it needs no traceback.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        _hook()


@contextmanager
def quiet_stops() -> Iterator[None]:
    """Lets a Ctrl-C in this context end the program with one line where nobody catches it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        _hook().stop = stop
        raise


class _QuietEnd:
    """Is the hook for exceptions that nobody catches; it is set by the first stop, once."""

    def __init__(self, before: Callable[..., object]) -> None:
        self.before = before
        self.stop: KeyboardInterrupt | None = None
        """Holds the newest Ctrl-C within a run; another one keeps its traceback."""

    def __call__(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            print(f"abd-hub: {error}; continue with resume=True", file=sys.stderr)
        elif error is self.stop:
            print("abd-hub: interrupted", file=sys.stderr)
        else:
            self.before(kind, error, traceback)


def _hook() -> _QuietEnd:
    """Returns the hook for exceptions that nobody catches, and sets it where it is not set yet."""
    if not isinstance(sys.excepthook, _QuietEnd):
        sys.excepthook = _QuietEnd(sys.excepthook)
    return sys.excepthook


def near_names(name: str, known: Sequence[str], command: str) -> str:
    """Returns the end of a refusal of an unknown name: those near it, all of a few, or who lists them."""
    near = difflib.get_close_matches(name, known, n=3) or (known if len(known) <= FEW_NAMES else [])
    return f"did you mean {', '.join(near)}?" if near else f"{command} shows all"


def disk_problem(error: BaseException) -> str:
    """Returns what is wrong with the disk, in one line; "" where the error is of another kind.

    safetensors raises an error of its own, which holds the system's number as text.
    """
    stated = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(stated[1]) if stated else None
    if number not in _DISK:
        return ""
    place = str(error.filename) if isinstance(error, OSError) and error.filename else "the disk"
    return f"{place}: {os.strerror(number)}; {_DISK[number]}, and repeat the command"


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
