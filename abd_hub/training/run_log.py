"""What a long run shows while it goes on: its log, its bar, the means of its figures, its time."""

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
from tqdm.auto import tqdm

from abd_hub.config.options import TrainerOptions
from abd_hub.core.errors import InputError
from abd_hub.learning import distributed


class RunLog:
    """The log of one run, in ``log.jsonl`` and in the trackers; the main process alone writes it.

    Args:
        folder: holds log.jsonl; None for a run without a file.
        accelerator: knows the main process and the trackers.
        options: how often a line is due, which trackers, and whether a bar is shown.
        counter: what the run counts; it names the first field of every line.
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
        """Starts the trackers and drops the lines after ``done`` rounds: a resumed run writes them again."""
        if self.options.trackers:
            self.accelerator.init_trackers("abd-hub", config={"seed": seed, f"{self.counter}s": total})
        if self.path is not None:
            rewind_log(self.path, self.counter, done)

    def bar(self, total: int, done: int, unit: str, name: str | None = None) -> Any:
        """A progress bar, which is shown in the main process where the options want one."""
        shown = self.options.progress and self.accelerator.is_main_process
        return tqdm(total=total, initial=done, disable=not shown, unit=unit, desc=name)

    def is_due(self, done: int, total: int) -> bool:
        """Whether a line is due after ``done`` of ``total`` rounds; one always is after the last."""
        return done == total or done % self.options.log_every == 0

    def write(self, done: int, figures: Mapping[str, float], seconds: float | None = None) -> None:
        """Gives the figures to the trackers, and a line to the file.

        Args:
            done: rounds or epochs.
            figures: in the order of the line.
            seconds: of the run so far, for the file; None leaves them out.
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
            InputError: naming the figure.
        """
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{name}: {value} after {self.counter} {done}, the run has diverged; lower learning_rate "
                    "or use mixed_precision no"
                )


def rewind_log(path: Path, counter: str, done: int) -> None:
    """Drops the lines that come after ``done`` rounds or epochs; makes the file where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _count(line, counter) <= done]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _count(line: str, counter: str) -> float:
    try:
        return float(json.loads(line)[counter])
    except (json.JSONDecodeError, KeyError):  # the half line of a killed run
        return float("inf")


class RunningMeans:
    """Means of figures over the rounds since the last line of the log.

    They are summed on the device: a number that is read makes the program wait for the device.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        """Rounds in which each figure was summed."""

    def add(self, figures: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Adds the figures of one round, or of the ``share`` of a round that one step is."""
        for name, value in figures.items():
            part = value.detach() * share
            self.sums[name] = self.sums[name] + part if name in self.sums else part
            self.counts[name] = self.counts.get(name, 0.0) + share

    def average_over_processes(self) -> None:
        """Gives every process the sums of all: what one of them saves or logs is theirs."""
        distributed.average_(self.sums.values())

    def take(self) -> dict[str, float]:
        """The means, in the order in which the figures came first; then begins anew."""
        if not self.sums:
            return {}
        means = torch.stack([value.double() / self.counts[name] for name, value in self.sums.items()])
        figures = dict(zip(self.sums, means.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        return figures


class RunClock:
    """The time that a run has taken, with the parts of it before it was resumed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.processor_seconds = 0.0
        """Seconds of all cores that this process has used: other work on the machine does not count."""
        self.start()

    def start(self) -> None:
        """Counts on from ``seconds`` and ``processor_seconds`` as they are now."""
        self._began = time.monotonic() - self.seconds
        self._processor_began = time.process_time() - self.processor_seconds

    def read(self) -> None:
        """Brings ``seconds`` and ``processor_seconds`` up to now."""
        self.seconds = time.monotonic() - self._began
        self.processor_seconds = time.process_time() - self._processor_began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count."""
        before, processor_before = time.monotonic(), time.process_time()
        yield
        self._began += time.monotonic() - before
        self._processor_began += time.process_time() - processor_before
