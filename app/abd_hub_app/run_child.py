"""Carries out one run of the page as a process, which limits itself in addition to the server's limits.

The server starts it as ``python -P run_child.py WORK CONFIG SECONDS``. It always ends with the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from abd_hub import follow_supervisor

PROGRESS = "progress.json"
"""Names the file that tells the server how far an inspection or a purification is."""
CASE = "case"
"""Names the folder with the inspection of the model that a run goes on from."""
_TELL_EVERY = 0.3

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


class Teller:
    """Writes the present step of a loop into a file, a few times a second."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / PROGRESS
        self.last = self.began = 0.0
        self.name = ""

    def __call__(self, name: str, done: int, total: int) -> None:
        """Writes the step, unless the last one was written just now."""
        now = time.monotonic()
        if name != self.name:
            self.name, self.began = name, now
        if now - self.last < _TELL_EVERY and done < total:
            return

        self.last = now
        told = {"name": name, "done": done, "total": total, "seconds": now - self.began}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(self.file)


def main(work: str, config: str, seconds: str) -> int:
    """Carries out the run; returns the exit code of abd-hub's commands and prints the reason last."""
    bound(float(seconds))
    from abd_hub import InputError, Interrupted, progress_listener

    place = Path(config).parent
    try:
        with progress_listener(Teller(place)):
            _carry_out(work, config, place)
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    return 0


def _carry_out(work: str, config: str, place: Path) -> None:
    if work == "distill":
        from abd_hub import distill, parse_distill

        request = parse_distill(["--config", config])
        distill(request)
        if (place / CASE).is_dir():
            from abd_hub_app.inspect_work import answer_student

            answer_student(place, Path(request.output_dir))
        return

    from abd_hub_app import inspect_work

    settings = json.loads(Path(config).read_text(encoding="utf-8"))
    {"inspect": inspect_work.inspect, "purify": inspect_work.purify}[work](settings, place)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
