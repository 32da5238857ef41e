"""One distillation of the page as a process, bounded by itself as well as by the server that started it.

``python -P distil_child.py CONFIG SECONDS`` with a pipe for its standard input whose other end the server
holds: whatever way the server ends, the pipe closes, and this process ends too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import threading
import time
from pathlib import Path

NICE = 10
"""Below the server, which answers other visitors meanwhile."""
GRACE = 8.0
"""Seconds to end in after SIGTERM, which the loop sees after its round."""


def bound(seconds: float) -> None:
    """Ends this process after so many seconds, or with the server; the first to go where memory runs out."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should a native call never give the interpreter back, the kernel ends the process instead.
    processor = int((seconds + 60) * (os.cpu_count() or 1))
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    with contextlib.suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    threading.Thread(target=_end_in_time, args=(seconds,), daemon=True).start()


def _end_in_time(seconds: float) -> None:
    select.select([0], [], [], seconds)  # nothing is ever written: it can be read when it is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def main(config: str, seconds: str) -> int:
    """Carries the run out; the exit code is that of the command line, the last line of output says why."""
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
