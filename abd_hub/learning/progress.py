"""Shows how far a loop is, and the time that is left: a bar on a terminal, and lines in a file.

A bar in a file is one line of thousands of characters. In its place a line comes every 30 seconds, also
within a long step. A notebook gets lines too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm

from abd_hub.learning import distributed

EVERY = 30.0
"""Seconds between two lines of a file."""
COLUMNS = 100
"""Most characters of a bar, which a terminal of usual width shows whole."""
Value = TypeVar("Value")
_LISTENERS: list[Callable[[str, int, int], None]] = []


@contextlib.contextmanager
def progress_listener(tell: Callable[[str, int, int], None]) -> Iterator[None]:
    """Calls ``tell(name, done, total)`` before each step of an inspection or a purification, and at its end.

    Args:
        tell: gets the name of the loop, its finished steps, and most of its steps.
    """
    _LISTENERS.append(tell)
    try:
        yield
    finally:
        _LISTENERS.remove(tell)


def progress(
    total: int, done: int = 0, *, unit: str, name: str | None = None, show: bool = True, leave: bool = True
) -> Any:
    """Returns ``tqdm`` or ``Lines``, which only the first process shows.

    Args:
        total: steps in all.
        done: steps of an earlier part of the loop.
        unit: one step.
        name: of the loop.
        show: False for nothing at all.
        leave: leaves the bar on the terminal at its end.
    """
    shown_here = show and not distributed.world()[0]
    if not shown_here or sys.stderr.isatty():
        columns = {"ncols": COLUMNS} if _columns() > COLUMNS else {"dynamic_ncols": True}
        hidden = not shown_here
        return tqdm(total=total, initial=done, disable=hidden, unit=unit, desc=name, leave=leave, **columns)
    return Lines(total, done, unit, name)


def over(values: Iterable[Value], total: int, *, unit: str, name: str) -> Iterator[Value]:
    """Yields the values, and shows how many have been used."""
    with progress(total, unit=unit, name=name, leave=False) as bar:
        for done, value in enumerate(values):
            _tell(name, done, total)
            yield value
            bar.update()
    _tell(name, total, total)


def _tell(name: str, done: int, total: int) -> None:
    for tell in _LISTENERS:
        tell(name, done, total)


class Lines:
    """Writes lines to standard error, with those methods of ``tqdm`` that the loops use."""

    def __init__(self, total: int, done: int, unit: str, name: str | None) -> None:
        self.total, self.unit, self.name = total, unit, name
        self.first = self.done = float(done)
        self.words = ""
        self.began = time.monotonic()
        self._stop = threading.Event()

    @property
    def n(self) -> float:
        """Returns the steps so far."""
        return self.done

    def update(self, n: float = 1) -> None:
        """Counts ``n`` further steps."""
        self.done += n

    def set_postfix_str(self, s: str = "") -> None:
        """Keeps a few words for the next line."""
        self.words = s

    def refresh(self) -> None:
        """Leaves the change of ``total`` to the next line."""

    def line(self, seconds: float) -> str:
        """Returns the line after so many seconds of this part of the loop."""
        name = f"{self.name}: " if self.name else ""
        counted = f"{name}{self.done:,.0f} of {self.total:,} {self.unit}s after {_clock(seconds)}"
        steps = self.done - self.first
        ahead = max(0.0, self.total - self.done)
        left = f", about {_clock(ahead * seconds / steps)} left" if steps else ""
        return counted + left + (f"; {self.words}" if self.words else "")

    def __enter__(self) -> Lines:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()  # no line may follow the end

    def _write(self) -> None:
        while not self._stop.wait(EVERY):
            print(self.line(time.monotonic() - self.began), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns() -> int:
    """Returns the width of the terminal of standard error; standard output may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a stream without a file
        return COLUMNS
