"""Runs one distillation of the page as a process, which limits itself in addition to the server's limits.

The server starts it as ``python -P distil_child.py CONFIG SECONDS``. It always ends with the server.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

from abd_hub import follow_supervisor

NICE = 10
"""Sets a lower priority than the server, which answers other visitors meanwhile."""
GRACE = 8.0
"""Gives the process so many seconds to end after SIGTERM, which the loop sees after its round."""


def bound(seconds: float) -> None:
    """Ends this process after so many seconds, with the server, or first when memory runs out."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If a native call never returns to the interpreter, the kernel ends the process instead.
    processor = int((seconds + 60) * (os.cpu_count() or 1))
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    follow_supervisor(grace=GRACE, how=signal.SIGTERM, limit=seconds)


def main(config: str, seconds: str) -> int:
    """Carries out the run; returns the exit code of ``abd-hub distill`` and prints the reason last."""
    bound(float(seconds))
    from abd_hub import InputError, Interrupted, distill, parse_distill

    try:
        distill(parse_distill(["--config", config]))
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
