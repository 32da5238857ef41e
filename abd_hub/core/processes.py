"""A supervisor starts, watches and stops a run as a process of its own, which never outlives it.

The supervisor holds one end of a pipe and never writes into it. The run reads the other end as its standard
input and ends when the pipe closes. A kill that leaves the supervisor no time closes the pipe as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

_STANDARD_INPUT = 0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class RunProcess:
    """A process that has been started, as its supervisor sees it; leaving the ``with`` block kills it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: int | IO[bytes],
        errors: int | IO[bytes] = subprocess.STDOUT,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Starts the process, which has to call ``follow_supervisor``.

        Args:
            command: program and arguments.
            output: file that takes its standard output.
            errors: file that takes its standard error; by default the same one.
            environment: all of its variables; None hands on those of the supervisor.
            folder: its working folder; None hands on that of the supervisor.

        Raises:
            OSError: the system cannot start it.
        """
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd=folder,
            # A group of its own: Ctrl-C on a terminal reaches the supervisor alone, and a kill reaches all
            # that the run has started.
            start_new_session=True,
        )
        self._asked_at: float | None = None

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative for the signal that killed it; None while it runs."""
        return self._process.poll()

    @property
    def asked(self) -> bool:
        """Whether it has been asked to end."""
        return self._asked_at is not None

    def wait(self, seconds: float) -> int | None:
        """Returns the exit code as soon as there is one, None after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=seconds)
        return None

    def ask(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Asks it to end; a second request changes nothing.

        Args:
            how: the signal; after SIGINT or SIGTERM a run can write its checkpoint.
        """
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._process.send_signal(how)

    def overdue(self, grace: float) -> bool:
        """Whether more than ``grace`` seconds have gone by since it was asked to end."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > grace

    def stop(self, grace: float, how: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to end, kills it after ``grace`` seconds, and returns the exit code."""
        self.ask(how)
        self.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """Ends it and all that it has started, at once, and returns the exit code."""
        pipe = self._process.stdin
        # Once only: after the end the system may give the number to a stranger.
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            pipe.close()
        return self._process.wait()

    def memory(self) -> int:
        """Returns the bytes of memory that it holds now; 0 once it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


def follow_supervisor(
    *, grace: float, how: signal.Signals = signal.SIGINT, limit: float | None = None
) -> None:
    """Ends this process when its supervisor has gone, first as ``how`` does, then at once.

    The main thread calls it, before anything slow.

    Args:
        grace: seconds between the two, in which a run can write a checkpoint.
        how: the signal that this process sends to itself first.
        limit: seconds after which it does the same while the supervisor lives; None for no limit.
    """
    # Ray's workers block SIGINT, and a process is born with its parent's mask.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.default_int_handler)

    threading.Thread(target=_end_in_time, args=(grace, how, limit), daemon=True).start()


def thread_settings(count: int) -> dict[str, str]:
    """Returns environment variables under which a process computes with ``count`` threads."""
    return dict.fromkeys(_THREADS, str(count))


def _end_in_time(grace: float, how: signal.Signals, limit: float | None) -> None:
    _wait_for_the_end(limit)

    os.kill(os.getpid(), how)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_the_end(limit: float | None) -> None:
    """Returns when standard input has ended or the time is over."""
    until = None if limit is None else time.monotonic() + limit
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        readable, _, _ = select.select([_STANDARD_INPUT], [], [], left)
        if not readable or not os.read(_STANDARD_INPUT, 1):
            return
