"""Carries out one run of a sweep on a Ray worker: starts its process, waits, and reports its end.

Each run has a process of its own, so that a run that dies takes neither the worker nor another run with it.
The module imports nothing heavy, because the worker itself needs neither torch nor the models.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from abd_hub.core.folder import IN_USE, in_use
from abd_hub.core.processes import RunProcess, thread_settings

STOPPED = "stopped"
_LOOK_EVERY = 0.3
_WAIT_FOR_FOLDER = 180.0
"""Gives the process of an earlier attempt so many seconds to leave its folder. It takes 30 after its worker
has gone, and the worker of a machine that is cut off from the head goes after 60."""
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Describes one attempt at a run by plain values, which travel to another process or machine."""

    module: str
    """Names the Python module that the run's process executes, see ``abd_hub.child``."""
    arguments: Sequence[str]
    """Lists the arguments of that module."""
    folder: str
    """Names the output folder of the run."""
    config: str
    """Names the file in the arguments, which must be visible to the run."""
    log: str
    """Names the file to which the process's output is appended."""
    stop: str
    """Names a file; once it exists, all runs stop."""
    cwd: str
    threads: int
    gpus: bool
    """Says whether the run may use a card."""
    number: int
    """Counts the attempts of the run, from 1."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Says how an attempt ended."""

    code: int | None
    """Holds the exit code of the process, negative for a signal; None if no process was started."""
    reason: str
    """Holds the last line of output, or the reason why no process was started."""
    host: str
    taken: bool = False
    """Says whether the folder was in use, so that the run did not begin."""


def attempt(job: Attempt) -> Outcome:
    """Carries out one attempt; returns when its process has ended."""
    host = platform.node()
    if not Path(job.config).is_file():
        reason = f"{job.config} does not exist on {host}; use an output_dir that all machines share"
        return Outcome(code=2, reason=reason, host=host)
    free = _wait_until_free(Path(job.folder), Path(job.stop))
    if Path(job.stop).exists():
        return Outcome(code=None, reason=STOPPED, host=host)
    if not free:
        return Outcome(code=None, reason=f"{job.folder} {IN_USE}", host=host, taken=True)

    with Path(job.log).open("ab") as log:
        log.write(f"--- attempt {job.number} on {host}, {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
        log.flush()
        begin = log.tell()
        code = _run(job, log.fileno())

    reason = _reason(code, Path(job.log), begin)
    # The other process may also come between the wait and the start of the run.
    return Outcome(code=code, reason=reason, host=host, taken=code == 2 and in_use(Path(job.folder)))


def _run(job: Attempt, output: int) -> int:
    """Waits for the end of the process; passes a request to stop on to it as Ctrl-C, once."""
    command = [sys.executable, "-m", job.module, *job.arguments]
    stop = Path(job.stop)
    with RunProcess(command, output=output, environment=_environment(job), folder=job.cwd) as run:
        while (code := run.wait(_LOOK_EVERY)) is None:
            if stop.exists():
                run.ask(signal.SIGINT)
    return code


def _environment(job: Attempt) -> dict[str, str]:
    """Returns the worker's environment, with the cards that Ray has set, and the run's share of the cores."""
    return os.environ | thread_settings(job.threads) | ({} if job.gpus else {"ACCELERATE_USE_CPU": "true"})


def _wait_until_free(folder: Path, stop: Path) -> bool:
    """Waits until the process of an earlier attempt, whose worker was killed, has left the folder."""
    until = time.monotonic() + _WAIT_FOR_FOLDER
    while taken := in_use(folder):
        if stop.exists() or time.monotonic() > until:
            break
        time.sleep(_LOOK_EVERY)
    return not taken


def _reason(code: int, log: Path, begin: int) -> str:
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 8192))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last.removeprefix("abd-hub: ")[:_LONGEST_REASON]
