"""The log of a long run, its progress bar, the means of its figures and its clock."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import TrainerOptions
from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.learning import distributed
from abd_hub.learning.progress import Left, progress


class RunLog:
    """Writes the log of one run to ``log.jsonl`` and to the trackers, in the main process only.

    Args:
        folder: folder of log.jsonl; None for a run without a file.
        accelerator: has the main process and the trackers.
        options: how often a line is due, which trackers to use, and whether to show a bar.
        counter: unit that the run counts; it names the first field of every line.
    """

    def __init__(
        self,
        folder: Path | None,
        accelerator: Accelerator,
        options: TrainerOptions,
        counter: Literal["round", "epoch"],
    ) -> None:
        self.accelerator = accelerator
        self.options = options
        self.counter = counter
        self.path = folder / "log.jsonl" if folder is not None and accelerator.is_main_process else None

    def begin(self, done: int, total: int, seed: int) -> None:
        """Starts the trackers and drops the lines after ``done`` rounds, which a resumed run writes again."""
        if self.options.trackers:
            self.accelerator.init_trackers("abd-hub", config={"seed": seed, f"{self.counter}s": total})
        if self.path is not None:
            rewind_log(self.path, self.counter, done)

    def bar(self, total: int, done: int, unit: str, left: Left, name: str | None = None) -> Any:
        """Returns what shows the progress, if ``options.progress`` is set."""
        return progress(total, done, unit=unit, name=name, show=self.options.progress, left=left)

    def is_due(self, done: int, total: int) -> bool:
        """Returns whether a line is due after ``done`` of ``total`` rounds; one is after the last round."""
        return done == total or done % self.options.log_every == 0

    def write(self, done: int, figures: Mapping[str, float], seconds: float | None = None) -> None:
        """Passes the figures to the trackers, and writes a line to the file.

        Args:
            done: finished rounds or epochs.
            figures: values by name, in the order of the line.
            seconds: duration of the run so far, for the file; None leaves it out.
        """
        self.accelerator.log(dict(figures), step=done)
        if self.path is None:
            return

        time_taken = {} if seconds is None else {"seconds": round(seconds, 3)}
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({self.counter: done, **figures, **time_taken}) + "\n")

    def refuse_diverged(self, done: int, figures: Mapping[str, float]) -> None:
        """Ends a run with figures that are not finite.

        Raises:
            InputError: a figure is not finite; the message names it.
        """
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{name}: is {value} after {self.counter} {done}, so the run has diverged; lower "
                    "learning_rate or set mixed_precision to no"
                )


def rewind_log(path: Path, counter: str, done: int) -> None:
    """Drops the lines after ``done`` rounds or epochs; creates the file where it is absent."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _count(line, counter) <= done]
    files.write_text(path, "".join(line + "\n" for line in kept))


def _count(line: str, counter: str) -> float:
    try:
        return float(json.loads(line)[counter])
    except (json.JSONDecodeError, KeyError):  # a killed run can leave half a line
        return float("inf")


class RunningMeans:
    """Averages figures over the rounds since the last line of the log.

    The sums stay on the device, because the program has to wait for the device to read a number.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        """Holds, for each figure, the number of rounds in its sum."""

    def add(self, figures: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Adds the figures of one round, or of one step that is the ``share`` of a round."""
        for name, value in figures.items():
            part = value.detach() * share
            self.sums[name] = self.sums[name] + part if name in self.sums else part
            self.counts[name] = self.counts.get(name, 0.0) + share

    def average_over_processes(self) -> None:
        """Averages the sums over the processes, so that the process that saves or logs has all of them."""
        distributed.average_(self.sums.values())

    def take(self) -> dict[str, float]:
        """Returns the means in the order in which the figures first came, and resets the sums."""
        if not self.sums:
            return {}

        means = torch.stack([value.double() / self.counts[name] for name, value in self.sums.items()])
        figures = dict(zip(self.sums, means.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return figures


class RunClock:
    """Measures the time of a run, the parts before a resumption included."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.processor_seconds = 0.0
        """Counts the seconds of all cores that this process has used, without other work on the machine."""
        self.start()

    def start(self) -> None:
        """Starts the clock at the present ``seconds`` and ``processor_seconds``."""
        self._began = time.monotonic() - self.seconds
        self._processor_began = time.process_time() - self.processor_seconds

    def read(self) -> None:
        """Updates ``seconds`` and ``processor_seconds``."""
        self.seconds = time.monotonic() - self._began
        self.processor_seconds = time.process_time() - self._processor_began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for the time of the context."""
        before, processor_before = time.monotonic(), time.process_time()
        yield
        self._began += time.monotonic() - before
        self._processor_began += time.process_time() - processor_before
