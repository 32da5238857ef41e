"""Distillations of visitors, one at a time, each in a process that is watched: time, memory, its visitor.

A visitor's run ends when it is cancelled, when the page is closed, when nobody has looked at it for a while,
when it takes too long or too much, and when the server ends; its folder goes with it. One thread does all of
that, so that no request has to come to an end for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from abd_hub import InputError
from abd_hub_app import distil_child
from abd_hub_app.guard import DISTILLATION

MOST_WAITING = 3
"""Visitors in line behind the one whose run is under way; further ones are sent away."""
MOST_MEMORY = 4_000_000_000
"""Bytes that a run may take. Measured, not limited by RLIMIT_AS: torch reserves many times the addresses that
it uses, most of all with an accelerator."""
CONFIG = "request.yaml"
RUN = "student"
ARCHIVE = "student.zip"
_LOOK_EVERY = 0.2
_UNSEEN = 20.0
"""Seconds after which a run that nobody looks at ends: the page looks at it twice a second."""
_KEPT = 3600.0
"""Seconds that a finished run is kept."""
_MOST_KEPT = 8
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_NOT_HANDED_ON = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|AUTH|COOKIE|NETRC|CACHE", re.I)
_CANCELLED = "cancelled"
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
        self.stop_asked = 0.0
        self.process: subprocess.Popen[bytes] | None = None
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


class DistilQueue:
    """The line, the run under way and the results that are kept; a context manager."""

    def __init__(self, files: Path) -> None:
        self.files = files
        """Folders of runs are made here, under names that nobody can guess."""
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        """In the order in which they came."""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DistilQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------- for visitors

    def check(self, session: str) -> None:
        """Refuses a run that could not even get into the line.

        Raises:
            InputError: the visitor has one under way, or the line is full.
        """
        with self._lock:
            self._check(session)

    def folder(self) -> Path:
        """A new empty folder for what a run needs."""
        made = self.files / f"{DISTILLATION}{secrets.token_hex(16)}"
        made.mkdir(mode=0o700)
        return made

    def discard(self, folder: Path) -> None:
        """Removes a folder that no run got."""
        shutil.rmtree(folder, ignore_errors=True)

    def submit(self, session: str, folder: Path, limit: float) -> Job:
        """Puts a run at the end of the line; an earlier result of this visitor goes.

        Args:
            session: of the visitor.
            folder: from ``folder``, with the configuration ``CONFIG`` in it.
            limit: seconds that it may take.

        Raises:
            InputError: see ``check``.
        """
        job = Job(session, folder, limit)
        with self._lock:
            self._check(session)
            for old in [one for one in self._jobs if one.session == session]:
                self._forget(old)
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._supervise, name="distillations", daemon=True)
                self._thread.start()
        return job

    def look(self, job: Job) -> View:
        """How far a run is; a run that nobody looks at ends."""
        with self._lock:
            job.seen = time.monotonic()
            active = [one for one in self._jobs if not one.over]
            before = active.index(job) if job.state is State.WAITING else 0
            seconds = (job.ended or time.monotonic()) - job.began if job.began else 0.0
            view = View(
                state=job.state,
                before=before,
                seconds=seconds,
                rows=(),
                reason=job.reason,
                stopping=bool(job.stop_asked) and not job.over,
            )
        return dataclasses.replace(view, rows=read_rows(job.run / "log.jsonl"))

    def cancel(self, session: str) -> bool:
        """Ends the visitor's run; False where there is none that is not over."""
        with self._lock:
            found = [job for job in self._jobs if job.session == session and not job.over]
            for job in found:
                self._stop(job, _CANCELLED)
            return bool(found)

    def leave(self, session: str) -> None:
        """The visitor has gone: the run ends, and nothing of it is kept."""
        with self._lock:
            for job in [one for one in self._jobs if one.session == session]:
                job.abandoned = True
                if job.over:
                    self._forget(job)
                else:
                    self._stop(job, _CANCELLED)

    def result(self, session: str) -> Path | None:
        """Output folder of the visitor's finished run."""
        with self._lock:
            done = [job for job in self._jobs if job.session == session and job.state is State.DONE]
            return done[-1].run if done else None

    def close(self) -> None:
        """Ends everything; returns when no process is left."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for job in list(self._jobs):
                _kill(job)
                self._forget(job)

    # ------------------------------------------------------------------------------------ supervision

    def _check(self, session: str) -> None:
        active = [job for job in self._jobs if not job.over]
        if any(job.session == session for job in active):
            raise InputError("distil: a run of yours is under way; cancel it first, or wait for its end")
        if len(active) > MOST_WAITING:
            raise InputError(f"distil: {len(active)} runs are in line already; come back in a few minutes")

    def _supervise(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            with self._lock:
                now = time.monotonic()
                for job in list(self._jobs):
                    self._tend(job, now)
                self._begin_next()

    def _tend(self, job: Job, now: float) -> None:
        if job.over:
            kept = [one for one in self._jobs if one.over]
            if job.abandoned or now - job.ended > _KEPT or (len(kept) > _MOST_KEPT and job is kept[0]):
                self._forget(job)
        elif now - job.seen > _UNSEEN and not job.stop_asked:
            job.abandoned = True
            self._stop(job, _CANCELLED)
        elif job.process is not None:
            self._watch(job, job.process, now)

    def _begin_next(self) -> None:
        active = [job for job in self._jobs if not job.over]
        if active and active[0].state is State.WAITING:
            try:
                _start(active[0])
            except OSError as error:
                _tell_owner(f"no process can be started: {error}")
                self._end(active[0], State.FAILED, "distil: the server cannot start a run now; try later")

    def _watch(self, job: Job, process: subprocess.Popen[bytes], now: float) -> None:
        code = process.poll()
        if code is not None:
            _kill(job)  # whatever it may have started
            self._conclude(job, code)
        elif job.stop_asked:
            if now - job.stop_asked > distil_child.GRACE:
                _kill(job)
        elif now - job.began > job.limit:
            self._stop(job, _too_long(job))
        elif memory_of(process.pid) > MOST_MEMORY:
            limit = f"{MOST_MEMORY / 1e9:g} GB"
            job.stop_asked, job.reason = now, f"memory: the run took more than {limit}; use smaller models"
            _kill(job)

    def _stop(self, job: Job, reason: str) -> None:
        """SIGTERM, after which the loop ends with its round; ``_watch`` does not wait for long."""
        if job.process is None:
            self._end(job, _stopped(reason), reason)
        elif not job.stop_asked:
            job.stop_asked, job.reason = time.monotonic(), reason
            with contextlib.suppress(ProcessLookupError):
                job.process.send_signal(signal.SIGTERM)

    def _conclude(self, job: Job, code: int) -> None:
        if code == 0 and (job.run / "metrics.json").is_file() and not job.abandoned:
            try:
                _pack(job)
            except OSError as error:
                _tell_owner(f"a result cannot be packed: {error}")
                self._end(job, State.FAILED, "distil: the server has no room for the result; try later")
                return
            self._end(job, State.DONE, "")
        elif job.stop_asked:
            self._end(job, _stopped(job.reason), job.reason)
        else:
            self._end(job, State.FAILED, _why(job, code))

    def _end(self, job: Job, state: State, reason: str) -> None:
        job.state, job.reason, job.ended = state, reason, time.monotonic()
        if state is not State.DONE:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _forget(self, job: Job) -> None:
        shutil.rmtree(job.folder, ignore_errors=True)
        self._jobs.remove(job)


def environment(home: Path) -> dict[str, str]:
    """That of a run: a share of the cores, and nothing that could open the server owner's doors.

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
        | dict.fromkeys(_THREADS, str(threads))
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


def _stopped(reason: str) -> State:
    return State.CANCELLED if reason == _CANCELLED else State.FAILED


def _start(job: Job) -> None:
    home = job.folder / "home"
    home.mkdir()
    with (job.folder / "output").open("wb") as output:
        job.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                distil_child.__file__,
                str(job.folder / CONFIG),
                str(job.limit + _OWN_LIMIT),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env=environment(home),
            start_new_session=True,
        )
    job.state, job.began = State.RUNNING, time.monotonic()


def _kill(job: Job) -> None:
    """The process and all that it has started; nothing where there is none."""
    if job.process is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, signal.SIGKILL)
    job.process.wait()
    if job.process.stdin is not None:
        job.process.stdin.close()


def memory_of(process: int) -> int:
    """Bytes that a process holds now; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.M)
    return 1024 * int(found[1]) if found else 0


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


def _too_long(job: Job) -> str:
    rows = read_rows(job.run / "log.jsonl")
    done = int(rows[-1]["round"]) if rows else 0
    minutes = f"{job.limit / 60:g} minutes"
    if not done:
        return f"minutes: the first rounds were not done within {minutes}; use a smaller model"
    return f"minutes: {minutes} are over after round {done}; ask for fewer rounds, or for more minutes"


def _why(job: Job, code: int) -> str:
    """Why a process ended by itself; only what is meant for a visitor."""
    try:
        said = (job.folder / "output").read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if code == 2 and last:
        # A local path of the server is no visitor's business.
        return last.replace(f"{job.folder}{os.sep}", "").replace(str(job.folder), "it")[:_LONGEST_REASON]
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    _tell_owner(f"a run {ended}: {last[:_LONGEST_REASON]}")
    return f"distil: the run {ended} unexpectedly; use smaller or other models"


def _pack(job: Job) -> None:
    """The folder as a zip; no checkpoint. What is in it hardly shrinks, so it is only stored."""
    files = sorted(file for file in job.run.rglob("*") if file.is_file())
    part = job.folder / f".{ARCHIVE}"
    with zipfile.ZipFile(part, "w") as archive:
        for file in files:
            name = file.relative_to(job.run)
            if name.parts[0] != "checkpoints" and name.name not in _OWN_FILES:
                archive.write(file, Path(RUN) / name)
    part.replace(job.folder / ARCHIVE)
    for leftover in ("home", "uploaded"):
        shutil.rmtree(job.folder / leftover, ignore_errors=True)


def _tell_owner(line: str) -> None:
    print(f"abd-hub app: {' '.join(line.split())}", file=sys.stderr, flush=True)
