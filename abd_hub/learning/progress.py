"""Shows how far a loop is, and the time that is left: a bar on a terminal or in a notebook, lines in a file.

A bar in a file is one line of thousands of characters. In its place a line comes every 30 seconds, also
within a long step. The time left counts down within a step, so a step of minutes is not silent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import tqdm.auto
import tqdm.notebook

from abd_hub.learning import distributed

EVERY = 30.0
"""Seconds between two lines of a file."""
REDRAWN = 2.0
"""Seconds after which a bar is drawn again within a step."""
COLUMNS = 100
"""Most characters of a bar, which a terminal of usual width shows whole."""
Value = TypeVar("Value")
Left = Callable[[], float | None]
"""Type of a function that returns the seconds left; None where they are unknown."""
Tell = Callable[[str, int, int], None]
"""Type of a function that gets the name of a loop, its finished steps, and most of its steps."""
_SHAPE = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
_shown: ContextVar[bool] = ContextVar("shown", default=True)
_after: ContextVar[float] = ContextVar("after", default=0.0)
_lasting: ContextVar[Left | None] = ContextVar("lasting", default=None)
_listener: ContextVar[Tell | None] = ContextVar("listener", default=None)


@contextmanager
def shown(show: bool) -> Iterator[None]:
    """Shows the progress of what runs in this context, or hides all of it."""
    before = _shown.set(show and _shown.get())
    try:
        yield
    finally:
        _shown.reset(before)


@contextmanager
def followed_by(seconds: float) -> Iterator[None]:
    """Adds the seconds of what comes afterwards to each time left that is shown in this context."""
    before = _after.set(_after.get() + seconds)
    try:
        yield
    finally:
        _after.reset(before)


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """Shows what is left of these seconds as the time left of each loop in this context.

    With 0, each loop shows its own.
    """
    end = time.monotonic() + seconds
    before = _lasting.set((lambda: max(0.0, end - time.monotonic())) if seconds else None)
    try:
        yield
    finally:
        _lasting.reset(before)


@contextmanager
def progress_listener(tell: Tell) -> Iterator[None]:
    """Calls ``tell`` before each step of an inspection or a purification in this context, and at its end."""
    before = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(before)


def progress(
    total: int,
    done: int = 0,
    *,
    unit: str,
    name: str | None = None,
    show: bool = True,
    leave: bool = True,
    left: Left | None = None,
) -> Any:
    """Returns a bar of ``tqdm`` or ``Lines``, which only the first process shows.

    Args:
        total: steps in all.
        done: steps of an earlier part of the loop.
        unit: one step.
        name: of the loop.
        show: False for nothing at all.
        leave: leaves the bar on the terminal at its end.
        left: seconds left; by default those of ``lasting``, or else all steps take the same time. What
            ``followed_by`` adds comes on top.
    """
    if not show or not _shown.get() or distributed.world()[0]:
        return tqdm.auto.tqdm(total=total, initial=done, disable=True, unit=unit, desc=name)
    clock = Clock(left or _lasting.get(), _after.get())
    if not in_notebook() and not sys.stderr.isatty():
        return Lines(total, done, unit, name, clock)
    # A notebook takes a number of columns for pixels.
    wide = not in_notebook() and _columns() > COLUMNS
    columns = {"ncols": COLUMNS} if wide else {"dynamic_ncols": True}
    return Bar(clock, total=total, initial=done, unit=unit, desc=name, leave=leave, **columns)


def over(values: Iterable[Value], total: int, *, unit: str, name: str) -> Iterator[Value]:
    """Yields the values, and shows how many have been used."""
    with progress(total, unit=unit, name=name, leave=False) as bar:
        for done, value in enumerate(values):
            _tell(name, done, total)
            yield value
            bar.update()
    _tell(name, total, total)


def _tell(name: str, done: int, total: int) -> None:
    tell = _listener.get()
    if tell is not None:
        tell(name, done, total)


def in_notebook() -> bool:
    """Returns whether tqdm draws widgets here."""
    return issubclass(tqdm.auto.tqdm, tqdm.notebook.tqdm_notebook)


class Clock:
    """Estimates the seconds that are left of a loop, and of what follows it.

    Args:
        left: seconds of the loop; None where all steps take the same time.
        after: seconds of what follows the loop.
    """

    def __init__(self, left: Left | None = None, after: float = 0.0) -> None:
        self.left, self.after = left, after
        self._steps, self._until = 0.0, 0.0

    def stepped(self, steps: float, seconds: float) -> None:
        """Notes that further steps have ended, so many seconds after the loop began."""
        if steps:
            self._steps, self._until = self._steps + steps, seconds

    def text(self, ahead: float, seconds: float) -> str:
        """Returns the time left with ``ahead`` further steps, after so many seconds; "?" if it is unknown."""
        known = self.left() if self.left is not None else self._equal_steps(ahead, seconds)
        return "?" if known is None else _time(known + self.after)

    def _equal_steps(self, ahead: float, seconds: float) -> float | None:
        if not self._steps:
            return None
        # The present step has begun when the last one ended, and its time runs down.
        return max(0.0, ahead * self._until / self._steps - (seconds - self._until))


class Bar(tqdm.auto.tqdm):  # type: ignore[type-arg,unused-ignore]
    """A bar of tqdm, whose time left is that of a clock, and which is drawn again within a step."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.clock = clock
        super().__init__(bar_format=_SHAPE, **options)
        self._ended = threading.Event()
        self._drawing = threading.Thread(target=self._draw, daemon=True)
        self._drawing.start()

    @property
    def format_dict(self) -> dict[str, Any]:
        """Returns what the shape of the bar names, with the time left."""
        values = dict(super().format_dict)
        ahead = max(0.0, (values["total"] or 0) - values["n"])
        return values | {"left": self.clock.text(ahead, values["elapsed"])}

    def update(self, n: float | None = 1) -> bool | None:
        """Counts ``n`` further steps."""
        self.clock.stepped(n or 0, time.time() - self.start_t)
        drawn: bool | None = super().update(n)
        return drawn

    def close(self) -> None:
        """Ends the drawing."""
        if hasattr(self, "_ended"):
            self._ended.set()
            self._drawing.join()
        super().close()

    def _draw(self) -> None:
        while not self._ended.wait(REDRAWN):
            self.refresh()


class Lines:
    """Writes lines to standard error, with those methods of ``tqdm`` that the loops use."""

    def __init__(
        self, total: int, done: int, unit: str, name: str | None, clock: Clock | None = None
    ) -> None:
        self.total, self.unit, self.name = total, unit, name
        self.done = float(done)
        self.clock = clock or Clock()
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
        self.clock.stepped(n, time.monotonic() - self.began)

    def set_postfix_str(self, s: str = "") -> None:
        """Keeps a few words for the next line."""
        self.words = s

    def refresh(self) -> None:
        """Leaves the change of ``total`` to the next line."""

    def line(self, seconds: float) -> str:
        """Returns the line after so many seconds of this part of the loop."""
        name = f"{self.name}: " if self.name else ""
        counted = f"{name}{self.done:,.0f} of {self.total:,} {_several(self.unit)} after {_time(seconds)}"
        left = self.clock.text(max(0.0, self.total - self.done), seconds)
        about = "" if left == "?" else f", about {left} left"
        return counted + about + (f"; {self.words}" if self.words else "")

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


def _several(unit: str) -> str:
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns() -> int:
    """Returns the width of the terminal of standard error; standard output may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # a stream without a file
        return COLUMNS
