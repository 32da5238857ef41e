"""One run of a sweep as a process: the command, and a thread that ends it when its supervisor has died.

``python -m abd_hub.child distill --config ...``, with a pipe for its standard input whose other end the
supervisor holds: a kill leaves nobody who could tell the run to stop, but it closes the pipe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE = 30.0
"""Seconds to write a checkpoint in, after the supervisor has died."""


def follow_supervisor() -> None:
    """Ends this process when standard input ends: first as Ctrl-C does, then at once."""
    # Ray's workers block SIGINT, and a process is born with its parent's mask.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Runs the command that the arguments name; returns its exit code."""
    follow_supervisor()
    from abd_hub.cli import main as command

    return command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
