"""Carries out visitors' runs one at a time, and watches the time, memory and visitor of each.

A run ends, and its folder goes, in any of these cases:

- the visitor cancels it or closes the page,
- the page has not polled it for a while,
- it takes too much time or memory,
- the server ends.

One thread does all of this, so it does not depend on the end of any request.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from abd_hub import InputError, RunProcess
from abd_hub_app import run_child
from abd_hub_app.guard import RUNS
from abd_hub_app.run_job import (
    DISTILL,
    INSPECT,
    Job,
    State,
    View,
    Work,
    pack,
    read_rows,
    read_step,
    tell_owner,
    tidy,
    too_long,
    why,
)

MOST_WAITING = 3
"""Limits the visitors in line behind the run under way; further ones are refused."""
MOST_MEMORY = 4_000_000_000
"""Limits the bytes of a run, by measurement. RLIMIT_AS does not work, as torch reserves many times the
addresses that it uses, most of all with an accelerator."""
_LOOK_EVERY = 0.2
_UNSEEN = 20.0
"""Ends a run after so many seconds without a poll; the page polls twice a second."""
_KEPT = 3600.0
"""Keeps a finished run for so many seconds."""
_MOST_KEPT = 8
"""Limits the finished runs of all visitors; the oldest go first."""
_CANCELLED = "cancelled"


class RunQueue:
    """Holds the line, the run under way and the finished runs; a context manager."""

    def __init__(self, files: Path) -> None:
        self.files = files
        """Names the folder in which runs get folders with names that nobody can guess."""
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        """Holds the runs in the order of their arrival."""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------- for visitors

    def check(self, session: str) -> None:
        """Refuses a run that could not get into the line.

        Raises:
            InputError: the visitor has a run under way, or the line is full.
        """
        with self._lock:
            self._check(session)

    def folder(self) -> Path:
        """Creates and returns a new empty folder for the files of a run."""
        folder = self.files / f"{RUNS}{secrets.token_hex(16)}"
        folder.mkdir(mode=0o700)
        return folder

    def discard(self, folder: Path) -> None:
        """Removes a folder that no run uses."""
        shutil.rmtree(folder, ignore_errors=True)

    def submit(
        self,
        session: str,
        folder: Path,
        limit: float,
        work: Work = DISTILL,
        *,
        slot: str = "",
        replaces: Sequence[str] = (),
    ) -> Job:
        """Puts a run at the end of the line, and removes the visitor's earlier results that it replaces.

        Args:
            session: of the visitor.
            folder: from ``folder``, with the configuration ``CONFIG`` in it.
            limit: seconds that the run may take.
            work: what its process does.
            slot: place of the result among the visitor's results; by default the name of the work.
            replaces: further places whose earlier results are removed.

        Raises:
            InputError: see ``check``.
        """
        job = Job(session, folder, limit, work, slot)
        with self._lock:
            self._check(session)

            for old in [one for one in self._jobs if one.session == session]:
                if old.slot in (job.slot, *replaces):
                    self._forget(old)
            self._jobs.append(job)

            if self._thread is None:
                self._thread = threading.Thread(target=self._supervise, name="runs", daemon=True)
                self._thread.start()

        return job

    def look(self, job: Job) -> View:
        """Returns the state of a run; a run ends if nobody calls this for a while."""
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
        return dataclasses.replace(view, rows=read_rows(job.run / "log.jsonl"), step=read_step(job.folder))

    def cancel(self, session: str) -> bool:
        """Ends the visitor's run; returns False if none waits or runs."""
        with self._lock:
            active = [job for job in self._jobs if job.session == session and not job.over]
            for job in active:
                self._stop(job, _CANCELLED)
            return bool(active)

    def leave(self, session: str) -> None:
        """Ends the run of a visitor who has left, and keeps nothing of it."""
        with self._lock:
            for job in [one for one in self._jobs if one.session == session]:
                job.abandoned = True
                if job.over:
                    self._forget(job)
                else:
                    self._stop(job, _CANCELLED)

    def result(self, session: str, slot: str = DISTILL.name) -> Job | None:
        """Returns the visitor's finished run in a place, or None."""
        with self._lock:
            done = [job for job in self._jobs if job.session == session and job.state is State.DONE]
            return next((job for job in done if job.slot == slot), None)

    def close(self) -> None:
        """Ends all runs; returns when no process is left."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for job in list(self._jobs):
                job.kill()
                if not job.over:
                    job.end(_stopped(_CANCELLED), _CANCELLED)  # a page may still show it
                self._forget(job)

    # ------------------------------------------------------------------------------------ supervision

    def _check(self, session: str) -> None:
        active = [job for job in self._jobs if not job.over]
        if any(job.session == session for job in active):
            raise InputError("run: a run of yours is under way; cancel it, or wait for its end")
        if len(active) > MOST_WAITING:
            raise InputError(f"run: {len(active)} runs are in line already; come back in a few minutes")

    def _supervise(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            with self._lock:
                now = time.monotonic()
                for job in list(self._jobs):
                    self._tend(job, now)
                self._begin_next()

    def _tend(self, job: Job, now: float) -> None:
        if job.over:
            kept = [one for one in self._jobs if one.state is State.DONE]
            # Runs without a result take no other visitor's place.
            useless = job.state is not State.DONE or job.abandoned or now - job.ended > _KEPT
            if useless or (len(kept) > _MOST_KEPT and job is kept[0]):
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
                active[0].end(State.FAILED, "run: the server cannot start a run now; try later")

    def _watch(self, job: Job, process: RunProcess, now: float) -> None:
        code = process.exit_code
        if code is not None:
            process.kill()  # it may have started others
            self._conclude(job, code)
        elif process.asked:
            if process.overdue(run_child.GRACE):
                process.kill()
        elif now - job.began > job.limit:
            self._stop(job, too_long(job))
        elif process.memory() > MOST_MEMORY:
            limit = f"{MOST_MEMORY / 1e9:g} GB"
            self._stop(job, f"memory: the run took more than {limit}; use smaller models", signal.SIGKILL)

    def _stop(self, job: Job, reason: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops a run; after SIGTERM it ends with its round, and ``_watch`` does not wait long for that."""
        if job.process is None:
            job.end(_stopped(reason), reason)
        elif not job.stopping:
            job.reason = reason
            job.process.ask(how)

    def _conclude(self, job: Job, code: int) -> None:
        if code == 0 and job.is_finished and not job.abandoned:
            try:
                if job.work is not INSPECT and job.run.is_dir():
                    pack(job)
                tidy(job)
            except OSError as error:
                tell_owner(f"a result cannot be packed: {error}")
                job.end(State.FAILED, "run: the server has no room for the result; try later")
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
