"""One distillation of a visitor: its folder, its process, and why it ended."""

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
from abd_hub_app import distil_child

CONFIG = "request.yaml"
RUN = "student"
ARCHIVE = "student.zip"
_NOT_HANDED_ON = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|AUTH|COOKIE|NETRC|CACHE", re.I)
_OWN_LIMIT = 30.0
"""Seconds after the limit at which a run ends by itself, should the server not have ended it."""
_OWN_FILES = (".lock",)
_LONGEST_REASON = 400


class State(StrEnum):
    """How far a run is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class View:
    """What a visitor may know of a run now."""

    state: State
    before: int
    """Runs that come first; 0 once it is under way."""
    seconds: float
    """Since its process was started."""
    rows: tuple[dict[str, float], ...]
    """Of log.jsonl, so far."""
    reason: str
    """Why it ended without a result, in one line."""
    stopping: bool
    """Whether it has been asked to end and has not yet."""

    @property
    def round(self) -> int:
        """Rounds that are done, as far as the log tells."""
        return int(self.rows[-1]["round"]) if self.rows else 0


class Job:
    """One run of one visitor. Only its queue changes it."""

    def __init__(self, session: str, folder: Path, limit: float) -> None:
        self.session = session
        self.folder = folder
        self.limit = limit
        """Seconds."""
        self.state = State.WAITING
        self.reason = ""
        self.seen = time.monotonic()
        self.began = 0.0
        self.ended = 0.0
        self.process: RunProcess | None = None
        self.abandoned = False
        """Its visitor has gone: nothing of it is kept."""

    @property
    def run(self) -> Path:
        """Output folder of the run."""
        return self.folder / RUN

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in (State.WAITING, State.RUNNING)

    @property
    def stopping(self) -> bool:
        """Whether its process has been asked to end."""
        return self.process is not None and self.process.asked

    def start(self) -> None:
        """Starts its process.

        Raises:
            OSError: the system cannot.
        """
        home = self.folder / "home"
        home.mkdir()
        limit = self.limit + _OWN_LIMIT
        command = [sys.executable, "-P", distil_child.__file__, str(self.folder / CONFIG), str(limit)]

        with (self.folder / "output").open("wb") as output:
            self.process = RunProcess(
                command, output=output, environment=environment(home), folder=self.folder
            )
        self.state, self.began = State.RUNNING, time.monotonic()

    def kill(self) -> None:
        """Ends its process and all that it has started; nothing where there is none."""
        if self.process is not None:
            self.process.kill()

    def end(self, state: State, reason: str) -> None:
        """Nothing more will happen; without a result its folder goes."""
        self.state, self.reason, self.ended = state, reason, time.monotonic()
        if state is not State.DONE:
            self.remove()

    def remove(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of a run: a share of the cores, and none of the server owner's keys.

    A visitor names the repository, so it is read as a stranger would: without a token, and not from the
    owner's cache, where private ones may lie.

    Args:
        home: folder for all that is downloaded, which goes with the run.
    """
    kept = {name: value for name, value in os.environ.items() if not _NOT_HANDED_ON.search(name)}
    threads = min(_stated_threads(), max(1, (os.cpu_count() or 1) // 2))
    # Where the server finds its modules, the child does; -P keeps this folder's own names out of the way.
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
    """The figures of log.jsonl so far; a line that is still being written is left out."""
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


def too_long(job: Job) -> str:
    """Returns why a run was ended that took more than its time."""
    rows = read_rows(job.run / "log.jsonl")
    done = int(rows[-1]["round"]) if rows else 0
    minutes = f"{job.limit / 60:g} minutes"
    if not done:
        return f"minutes: the first rounds were not done within {minutes}; use a smaller model"
    return f"minutes: {minutes} are over after round {done}; ask for fewer rounds, or for more minutes"


def why(job: Job, code: int) -> str:
    """Returns why a process ended by itself; only what is meant for a visitor."""
    try:
        said = (job.folder / "output").read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")

    if code == 2 and last:
        # A local path of the server is no visitor's business.
        return last.replace(f"{job.folder}{os.sep}", "").replace(str(job.folder), "it")[:_LONGEST_REASON]

    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    tell_owner(f"a run {ended}: {last[:_LONGEST_REASON]}")
    return f"distil: the run {ended} unexpectedly; use smaller or other models"


def pack(job: Job) -> None:
    """Puts the folder of a run, but for its checkpoints, into a zip that appears whole or not at all.

    Raises:
        OSError: there is no room for it.
    """
    files = sorted(file for file in job.run.rglob("*") if file.is_file())
    part = job.folder / f".{ARCHIVE}"
    # What is in it hardly shrinks, so it is only stored.
    with zipfile.ZipFile(part, "w") as archive:
        for file in files:
            name = file.relative_to(job.run)
            if name.parts[0] != "checkpoints" and name.name not in _OWN_FILES:
                archive.write(file, Path(RUN) / name)

    part.replace(job.folder / ARCHIVE)
    for leftover in ("home", "uploaded"):
        shutil.rmtree(job.folder / leftover, ignore_errors=True)


def tell_owner(line: str) -> None:
    """Prints a line for whoever runs the server."""
    print(f"abd-hub app: {' '.join(line.split())}", file=sys.stderr, flush=True)
