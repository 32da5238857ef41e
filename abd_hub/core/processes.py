"""A supervisor starts, watches and stops a run in a process of its own, which never outlives the supervisor.

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
    """Starts a process and controls it for its supervisor; the end of the ``with`` block kills it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: int | IO[bytes],
        errors: int | IO[bytes] = subprocess.STDOUT,
        environment: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Starts the process, which must call ``follow_supervisor``.

        Args:
            command: program and arguments.
            output: file for its standard output.
            errors: file for its standard error; by default the same one.
            environment: all of its variables; None copies the supervisor's.
            folder: its working folder; None means the supervisor's.

        Raises:
            OSError: the system cannot start the process.
        """
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd=folder,
            # The run has a process group of its own. So Ctrl-C on a terminal reaches only the supervisor, and
            # a kill reaches all processes that the run has started.
            start_new_session=True,
        )
        self._asked_at: float | None = None

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for the signal that killed the process; None while it runs."""
        return self._process.poll()

    @property
    def asked(self) -> bool:
        """Whether ``ask`` has requested the end."""
        return self._asked_at is not None

    def wait(self, seconds: float) -> int | None:
        """Waits for the end; returns the exit code, or None if the process still runs after ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=seconds)
        return None

    def ask(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Requests the end of the process; a second request changes nothing.

        Args:
            how: the signal; after SIGINT or SIGTERM a run can write its checkpoint.
        """
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._process.send_signal(how)

    def overdue(self, grace: float) -> bool:
        """Returns whether more than ``grace`` seconds have passed since the request to end."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > grace

    def stop(self, grace: float, how: signal.Signals = signal.SIGTERM) -> int:
        """Requests the end, kills the process after ``grace`` seconds, and returns the exit code."""
        self.ask(how)
        self.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """Kills the process and all that it has started, and returns the exit code."""
        pipe = self._process.stdin
        # Only the first call kills, because the system may give the number to a stranger after the end.
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            pipe.close()
        return self._process.wait()

    def memory(self) -> int:
        """Returns the present memory of the process in bytes; 0 after its end."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


def follow_supervisor(
    *, grace: float, how: signal.Signals = signal.SIGINT, limit: float | None = None
) -> None:
    """Ends this process when its supervisor has gone, first by the signal ``how``, then by a kill.

    The main thread must call it before anything slow.

    Args:
        grace: seconds between signal and kill, in which a run can write a checkpoint.
        how: the signal that this process sends to itself first.
        limit: seconds after which the process ends although the supervisor lives; None for no limit.
    """
    # Ray's workers block SIGINT, and a process inherits the mask of its parent.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.default_int_handler)

    threading.Thread(target=_end_in_time, args=(grace, how, limit), daemon=True).start()


def thread_settings(count: int) -> dict[str, str]:
    """Returns environment variables that limit a process to ``count`` threads."""
    return dict.fromkeys(_THREADS, str(count))


def _end_in_time(grace: float, how: signal.Signals, limit: float | None) -> None:
    _wait_for_the_end(limit)

    os.kill(os.getpid(), how)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_the_end(limit: float | None) -> None:
    """Waits until standard input has ended or the time is over."""
    until = None if limit is None else time.monotonic() + limit
    while True:
        left = None if until is None else max(0.0, until - time.monotonic())
        readable, _, _ = select.select([_STANDARD_INPUT], [], [], left)
        if not readable or not os.read(_STANDARD_INPUT, 1):
            return
