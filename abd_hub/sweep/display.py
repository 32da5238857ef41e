"""Shows a sweep as a table on a terminal, and elsewhere as a line or JSON object for each change."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from abd_hub.config.options import DistillConfig
from abd_hub.config.poison import PoisonConfig
from abd_hub.evaluation.tables import format_aligned
from abd_hub.sweep.engine import DONE, FAILED, RUNNING, WAITING, Status
from abd_hub.sweep.task import STOPPED

_ORDER = (RUNNING, FAILED, STOPPED, WAITING, DONE)
_REDRAW_EVERY = 1.0
_TAIL = 4096


class LineDisplay:
    """Prints one line, or with ``as_json`` one JSON object, for every change of a run's state."""

    def __init__(self, out: TextIO, *, as_json: bool = False) -> None:
        self._out = out
        self._as_json = as_json
        self._seen: dict[str, tuple[str, int]] = {}

    def update(self, statuses: Sequence[Status]) -> None:
        """Prints every change since the last call."""
        if not self._seen and not self._as_json:
            self._say_before(statuses)
        for status in statuses:
            now = (status.state, status.tries)
            before = self._seen.get(status.name, (WAITING, 0))
            self._seen[status.name] = now
            if now != before:
                self._say(status, statuses)

    def note(self, text: str) -> None:
        """Prints a line of its own, to standard error if JSON goes to the output."""
        print(text, file=sys.stderr if self._as_json else self._out, flush=True)

    def _say_before(self, statuses: Sequence[Status]) -> None:
        before = [status for status in statuses if status.state == DONE]
        self._seen = {status.name: (status.state, status.tries) for status in before}
        if before:
            self.note(f"{len(before)} of {len(statuses)} runs were finished before")

    def _say(self, status: Status, statuses: Sequence[Status]) -> None:
        if self._as_json:
            facts = {"event": "run", "name": status.name, "state": status.state, "attempts": status.attempts}
            print(json.dumps(facts | {"reason": status.reason or None}), file=self._out, flush=True)
            return
        ended = sum(s.state in (DONE, FAILED) for s in statuses)
        reason = f": {status.reason}" if status.reason and status.state != DONE else ""
        print(f"[{ended}/{len(statuses)}] {status.name} {status.state}{reason}", file=self._out, flush=True)


class TableDisplay:
    """Draws a table on a terminal, each time over the last one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn = 0
        self._last = 0.0
        self._states: list[str] = []
        self._note = ""

    def update(self, statuses: Sequence[Status]) -> None:
        """Draws the table again after a change, or when a second has passed."""
        states = [status.state for status in statuses]
        if states == self._states and time.monotonic() - self._last < _REDRAW_EVERY:
            return
        self._states, self._last = states, time.monotonic()
        self._draw(statuses)

    def note(self, text: str) -> None:
        """Puts a line under the table from the next drawing on."""
        self._note = text

    def _draw(self, statuses: Sequence[Status]) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [*table_lines(statuses, max(1, rows - 6)), *([self._note] if self._note else [])]
        # The cursor goes up to clear the last table; a line wider than the terminal would take two rows.
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        text = "".join(line[: columns - 1] + "\n" for line in lines)
        print(back + text, end="", file=self._out, flush=True)
        self._drawn = len(lines)


def table_lines(statuses: Sequence[Status], most: int | None = None) -> list[str]:
    """Returns the runs and a line of counts; at most ``most`` runs, those at work first."""
    shown = list(statuses)
    if most is not None:
        shown = sorted(statuses, key=lambda status: _ORDER.index(status.state))[:most]
    head = ["run", "state", "progress", "attempts"]
    rows = [[s.name, s.state, progress(s), str(s.attempts)] for s in shown]
    states = [status.state for status in statuses]
    counts = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
    hidden = f" ({len(statuses) - len(shown)} not shown)" if len(shown) < len(statuses) else ""
    return [*format_aligned([head, *rows]).splitlines(), f"{counts}{hidden}"]


def format_failures(statuses: Sequence[Status]) -> str:
    """Returns a table of the failed runs with reason and output file."""
    rows = [[s.name, str(s.attempts), s.reason, str(s.log)] for s in statuses if s.state == FAILED]
    return format_aligned([["failed", "attempts", "why", "output"], *rows])


def progress(status: Status) -> str:
    """Returns the rounds or epochs in the log of the run, of how many in all."""
    config = status.run.config
    if isinstance(config, PoisonConfig):
        unit, total = "epoch", config.recipe.epochs
    else:
        unit, total = "round", config.synthesizer.rounds

    done = _last_count(status.folder / "log.jsonl", unit)
    if done is None:
        return ""
    # A run with a budget chooses its rounds itself.
    of_all = "" if isinstance(config, DistillConfig) and config.budget else f" of {total}"
    return f"{done}{of_all} {unit}s"


def _last_count(log: Path, unit: str) -> int | None:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None

    for line in reversed(lines):
        try:
            return int(json.loads(line)[unit])
        except (ValueError, KeyError, TypeError):  # the line is still being written, or its start is cut off
            continue
    return None
