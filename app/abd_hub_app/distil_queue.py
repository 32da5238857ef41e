"""Distillations of visitors, one at a time, each in a process that is watched: time, memory, its visitor.

A visitor's run ends when it is cancelled, when the page is closed, when nobody has looked at it for a while,
when it takes too long or too much, and when the server ends; its folder goes with it. One thread does all of
that, so that no request has to come to an end for it.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import signal
import threading
import time
from pathlib import Path

from abd_hub import InputError, RunProcess
from abd_hub_app import distil_child
from abd_hub_app.distil_job import Job, State, View, pack, read_rows, tell_owner, too_long, why
from abd_hub_app.guard import DISTILLATION

MOST_WAITING = 3
"""Visitors in line behind the one whose run is under way; further ones are sent away."""
MOST_MEMORY = 4_000_000_000
"""Bytes that a run may take. Measured, not limited by RLIMIT_AS: torch reserves many times the addresses that
it uses, most of all with an accelerator."""
_LOOK_EVERY = 0.2
_UNSEEN = 20.0
"""Seconds after which a run that nobody looks at ends: the page looks at it twice a second."""
_KEPT = 3600.0
"""Seconds that a finished run is kept."""
_MOST_KEPT = 8
_CANCELLED = "cancelled"


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
                stopping=job.stopping and not job.over,
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
                job.kill()
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
        elif now - job.seen > _UNSEEN and not job.stopping:
            job.abandoned = True
            self._stop(job, _CANCELLED)
        elif job.process is not None:
            self._watch(job, job.process, now)

    def _begin_next(self) -> None:
        active = [job for job in self._jobs if not job.over]
        if active and active[0].state is State.WAITING:
            try:
                active[0].start()
            except OSError as error:
                tell_owner(f"no process can be started: {error}")
                active[0].end(State.FAILED, "distil: the server cannot start a run now; try later")

    def _watch(self, job: Job, process: RunProcess, now: float) -> None:
        code = process.exit_code
        if code is not None:
            process.kill()  # whatever it may have started
            self._conclude(job, code)
        elif process.asked:
            if process.overdue(distil_child.GRACE):
                process.kill()
        elif now - job.began > job.limit:
            self._stop(job, too_long(job))
        elif process.memory() > MOST_MEMORY:
            limit = f"{MOST_MEMORY / 1e9:g} GB"
            self._stop(job, f"memory: the run took more than {limit}; use smaller models", signal.SIGKILL)

    def _stop(self, job: Job, reason: str, how: signal.Signals = signal.SIGTERM) -> None:
        """After SIGTERM the loop ends with its round; ``_watch`` does not wait for long."""
        if job.process is None:
            job.end(_stopped(reason), reason)
        elif not job.stopping:
            job.reason = reason
            job.process.ask(how)

    def _conclude(self, job: Job, code: int) -> None:
        if code == 0 and (job.run / "metrics.json").is_file() and not job.abandoned:
            try:
                pack(job)
            except OSError as error:
                tell_owner(f"a result cannot be packed: {error}")
                job.end(State.FAILED, "distil: the server has no room for the result; try later")
                return
            job.end(State.DONE, "")
        elif job.stopping:
            job.end(_stopped(job.reason), job.reason)
        else:
            job.end(State.FAILED, why(job, code))

    def _forget(self, job: Job) -> None:
        job.remove()
        self._jobs.remove(job)


def _stopped(reason: str) -> State:
    return State.CANCELLED if reason == _CANCELLED else State.FAILED
