"""Forks processes that have imported all of abd-hub, so that a command begins to work at once.

``environment`` is what the Hub's client reads as it is imported, so it is the same for all.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import fault_child
import forked
import quick_python

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("fault_child.py")
LIBRARIES = [
    *("abd_hub.commands.running", "abd_hub.config.parsing", "abd_hub.publish.bank_export"),
    *("abd_hub.publish.push", "abd_hub.runs.demo", "abd_hub.runs.distill", "abd_hub.runs.dry"),
    *("abd_hub.runs.export", "abd_hub.runs.inspect", "abd_hub.runs.poison", "abd_hub.runs.purified_folder"),
    *("abd_hub.runs.compare", "abd_hub.sweep.engine", "datasets", "gradio", "gradio_client"),
]
_NAME = "ABD_HUB_TESTS_FAULTS"


def prepare(environment):
    """Starts the host; the first call decides the environment."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return quick_python.another(_NAME, quick_python.executable(), __file__, fixed)


def start(words, fault, folder, output, environment):
    """Begins ``abd-hub WORDS`` in a folder, with a fault; its words go to the file ``output``."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "app"), str(Path(__file__).parent)])
    own = {"PYTHONPATH": path, **environment}
    return forked.Forked(
        [str(CHILD), fault, *words], folder, f"{output}.out", f"{output}.err", own, host=prepare(environment)
    )


class Fork:
    """As ``forked.Forked``, but forked from this process, which has imported abd_hub already."""

    def __init__(self, words, fault, folder, output, environment):
        self.code = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            os.environ.update(environment)
            for number, end in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{output}.{end}", os.O_WRONLY | os.O_CREAT, 0o600), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            code = fault_child.run(fault, words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds=None):
        """The exit code, a negative number for a signal; None where it still runs after so many seconds."""
        until = time.monotonic() + (10**6 if seconds is None else seconds)
        while self.code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                return None
            else:
                time.sleep(0.005)
        return self.code

    def poll(self):
        """The exit code, or None while it runs."""
        return self.wait(0)

    def kill(self):
        """Ends it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait_or_kill(self, seconds):
        """Waits so long, then ends it."""
        self.wait(seconds)
        self.kill()


def _import():
    from abd_hub.core import registry

    for library in LIBRARIES:
        __import__(library)
    for kind in ("synthesizers", "defenses", "inspections", "purifications", "triggers"):
        for entry in registry.catalog(kind):
            registry.get(kind, entry.name)


if __name__ == "__main__":
    quick_python.serve(sys.argv[1], _import, quick_python.executable())
