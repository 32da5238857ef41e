"""Handles one run of a visitor with its folder, its process, and the reason of its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from abd_hub import RunProcess, thread_settings
from abd_hub_app import inspect_case, run_child
from abd_hub_app.run_child import CASE, PROGRESS
from abd_hub_app.sources import UPLOADED

CONFIG = "request.yaml"
_NOT_HANDED_ON = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|AUTH|COOKIE|NETRC|CACHE", re.I)
_OWN_LIMIT = 30.0
"""Sets the seconds after the limit at which a run ends itself if the server has not ended it."""
_OWN_FILES = (".lock",)
_LONGEST_REASON = 400


@dataclass(frozen=True)
class Work:
    """Says what the process of a run does, and where its result is."""

    name: str
    """Names the work in messages and for the process: distill, inspect or purify."""
    folder: str
    """Names the folder of the result."""
    proof: str
    """Names the file that the process writes last."""


DISTILL = Work("distill", "student", "student/metrics.json")
INSPECT = Work("inspect", "inspection", f"inspection/{inspect_case.SHOWN}")
PURIFY = Work("purify", "purified", f"{inspect_case.OUTCOME}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Holds how far an inspection or a purification is."""

    name: str
    done: int
    total: int
    seconds: float
    """Counts the seconds since the first step of this name."""


class State(StrEnum):
    """Names how far a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class View:
    """Holds the public state of a run at one moment."""

    state: State
    before: int
    """Counts the runs that come first; 0 once this one is under way."""
    seconds: float
    """Counts the seconds since its process started."""
    rows: tuple[dict[str, float], ...]
    """Holds the rows of log.jsonl so far."""
    reason: str
    """Says in one line why the run ended without a result."""
    stopping: bool
    """Says whether the run got a request to end and still runs."""
    step: Step | None = None
    """Holds the present step of an inspection or a purification; None before the first."""

    @property
    def round(self) -> int:
        """Returns the number of rounds in the log."""
        return int(self.rows[-1]["round"]) if self.rows else 0


class Job:
    """Holds one run of one visitor; only its queue changes it."""

    def __init__(
        self, session: str, folder: Path, limit: float, work: Work = DISTILL, slot: str = ""
    ) -> None:
        self.session = session
        self.folder = folder
        self.limit = limit
        """Sets the seconds that the run may take."""
        self.work = work
        self.slot = slot or work.name
        """Names the place of the result among the results of its visitor."""
        self.state = State.WAITING
        self.reason = ""
        self.seen = time.monotonic()
        self.began = 0.0
        self.ended = 0.0
        self.process: RunProcess | None = None
        self.abandoned = False
        """Says whether its visitor has left, so that nothing of the run is kept."""

    @property
    def run(self) -> Path:
        """Returns the output folder of the run."""
        return self.folder / self.work.folder

    @property
    def archive(self) -> Path:
        """Returns the zip of the output folder."""
        return self.folder / f"{self.work.folder}.zip"

    @property
    def is_finished(self) -> bool:
        """Returns whether the process has left a whole result."""
        return (self.folder / self.work.proof).is_file()

    @property
    def over(self) -> bool:
        """Returns whether the run has ended."""
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def stopping(self) -> bool:
        """Returns whether its process got a request to end."""
        return self.process is not None and self.process.asked

    def start(self) -> None:
        """Starts its process.

        Raises:
            OSError: the system cannot start a process.
        """
        home = self.folder / "home"
        home.mkdir()
        limit = self.limit + _OWN_LIMIT
        program = [sys.executable, "-P", run_child.__file__, self.work.name]
        command = [*program, str(self.folder / CONFIG), str(limit)]

        with (self.folder / "output").open("wb") as output:
            self.process = RunProcess(
                command, output=output, environment=environment(home), folder=self.folder
            )
        self.state, self.began = State.RUNNING, time.monotonic()

    def kill(self) -> None:
        """Ends its process, if any, and all processes that it started."""
        if self.process is not None:
            self.process.kill()

    def end(self, state: State, reason: str) -> None:
        """Marks the run as ended, and removes its folder if it has no result."""
        self.state, self.reason, self.ended = state, reason, time.monotonic()
        if state is not State.DONE:
            self.remove()

    def remove(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of a run, with a share of the cores and none of the server owner's keys.

    A visitor names the repository, so the run reads it as a stranger would. It has no token, and it does not
    use the owner's cache, which may hold private repositories.

    Args:
        home: folder for all downloads, which is removed with the run.
    """
    kept = {name: value for name, value in os.environ.items() if not _NOT_HANDED_ON.search(name)}
    cores = os.cpu_count() or 1
    # A run has the lower priority. On two cores, one alone would take two minutes for an inspection.
    threads = min(_stated_threads(), max(min(2, cores), cores // 2))
    # The child finds modules where the server does; -P keeps the names in this folder from hiding them.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return (
        kept
        | thread_settings(threads)
        | {
            "PYTHONPATH": path,
            "TMPDIR": str(home),
            "HF_HOME": str(home),
            "HF_TOKEN_PATH": str(home / "none"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        }
    )


def _stated_threads() -> int:
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else sys.maxsize


def read_rows(log: Path) -> tuple[dict[str, float], ...]:
    """Returns the figures of log.jsonl so far, without a line that is still being written."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()

    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row: dict[str, Any] = json.loads(line)
            rows.append({name: float(value) for name, value in row.items()})

    return tuple(rows)


def read_step(folder: Path) -> Step | None:
    """Returns the last step that the process has told; None before the first."""
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        return Step(**{field: told[field] for field in ("name", "done", "total", "seconds")})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def too_long(job: Job) -> str:
    """Returns the reason for the end of a run that took more than its time."""
    if job.work is not DISTILL:
        minutes = f"{job.limit / 60:g} minutes"
        return f"minutes: {minutes} were not enough; use a smaller model, or abd-hub in a terminal"

    rows = read_rows(job.run / "log.jsonl")
    done = int(rows[-1]["round"]) if rows else 0
    minutes = f"{job.limit / 60:g} minutes"
    if not done:
        return f"minutes: the first rounds were not done within {minutes}; use a smaller model"
    return f"minutes: {minutes} are over after round {done}; set fewer rounds or more minutes"


def why(job: Job, code: int) -> str:
    """Returns the reason for the end of a process, in words for the visitor."""
    try:
        output = (job.folder / "output").read_text(encoding="utf-8", errors="replace")
    except OSError:
        output = ""
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")

    if code == 2 and last:
        # Visitors see no path of the server.
        return last.replace(f"{job.folder}{os.sep}", "").replace(str(job.folder), "it")[:_LONGEST_REASON]

    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    tell_owner(f"a run {ended}: {last[:_LONGEST_REASON]}")
    return f"{job.work.name}: the run {ended} unexpectedly; use smaller or other models"


def pack(job: Job) -> None:
    """Packs the folder of a run without its checkpoints into a zip, which appears whole or not at all.

    Raises:
        OSError: the disk has no room for it.
    """
    files = sorted(file for file in job.run.rglob("*") if file.is_file())
    part = job.folder / f".{job.archive.name}"
    # Weights and pictures hardly shrink, so the zip stores them without compression.
    with zipfile.ZipFile(part, "w") as archive:
        for file in files:
            name = file.relative_to(job.run)
            if name.parts[0] != "checkpoints" and name.name not in _OWN_FILES:
                archive.write(file, Path(job.work.folder) / name)

    part.replace(job.archive)


def tidy(job: Job) -> None:
    """Removes what a finished run needs no longer; an inspected upload stays for the runs that follow."""
    leftovers = ("home",) if job.work is INSPECT else ("home", UPLOADED, CASE)
    for leftover in leftovers:
        shutil.rmtree(job.folder / leftover, ignore_errors=True)


def tell_owner(line: str) -> None:
    """Prints a line for the owner of the server."""
    print(f"abd-hub app: {' '.join(line.split())}", file=sys.stderr, flush=True)
