"""Programs as processes of their own, forked from one that has imported the libraries and the package.

An import of them takes seconds a process. Where a test needs a real process, to kill it or to see it alone,
but not a start of Python, ``start`` and ``run`` take the words that would follow ``python``:

    done = run("-m", "abd_hub", "list")
    process = start("recipes/own_loop.py", "resnet18", cwd=ROOT)
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quick_python

LIBRARIES = [
    *("accelerate", "datasets", "gradio", "safetensors.torch", "timm", "torchvision.transforms.v2"),
    *("transformers.pipelines", "abd_hub.runs.distill", "abd_hub.config.parsing"),
]
"""What is imported before, with that of ``quick_python``."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
"""What the libraries read as they are imported is the same for all."""
_NAME = "ABD_HUB_TESTS_FORKED"


def prepare() -> str:
    """Starts the host, which imports with its first process; the first call does it for all, as there."""
    return quick_python.another(_NAME, quick_python.executable(), __file__, ENVIRONMENT)


class Forked:
    """A running program; its methods are those of ``subprocess.Popen``, and ``pid`` is its own.

    ``host`` is the program of another host, by ``quick_python.another``.
    """

    def __init__(self, words, cwd, stdout, stderr, environment=None, host=None):
        task = {
            "words": list(map(str, words)),
            "environment": os.environ | ENVIRONMENT | (environment or {}),
            "folder": str(Path(cwd).resolve()),
        }
        self.returncode = None
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect((host or prepare()).removesuffix("python") + "socket")
        with open(os.devnull) as nothing, open(stdout, "wb") as out, open(stderr, "wb") as err:  # noqa: PTH123
            text = f"{json.dumps(task)}\n".encode()
            sent = socket.send_fds(self.connection, [text], [nothing.fileno(), out.fileno(), err.fileno()])
        self.connection.sendall(text[sent:])
        self.answers = self.connection.makefile()
        self.pid = int(self.answers.readline())

    def poll(self):
        """The exit code, or None while it runs."""
        return self.wait(0)

    def wait(self, seconds=None):
        """The exit code, a negative number for a signal; None where it still runs after so many seconds."""
        if self.returncode is None and select.select([self.connection], [], [], seconds)[0]:
            self.returncode = int(self.answers.readline())
        return self.returncode

    def send_signal(self, number):
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def wait_or_kill(self, seconds):
        """Waits so long, then ends it."""
        self.wait(seconds)
        self.kill()


def start(*words, cwd=".", stdout=os.devnull, stderr=os.devnull, environment=None):
    """Begins ``python *words``, whose output goes to files; the libraries do not see this environment."""
    return Forked(words, cwd, stdout, stderr, environment)


def run(*words, cwd=".", environment=None):
    """Runs ``python *words`` to its end: its exit code and what it has written."""
    (done,) = run_together([words], [environment], cwd)
    return done


def run_together(commands, environments, cwd="."):
    """Runs several at once to their ends; a failure of one ends the others, which may wait for it."""
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder, f"{name}{k}") for name in ("out", "err")] for k in range(len(commands))]
        running = [
            Forked(words, cwd, *pair, environment)
            for words, pair, environment in zip(commands, files, environments, strict=True)
        ]
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                for process in running:
                    process.kill()
            time.sleep(0.02)
        return [
            subprocess.CompletedProcess(words, process.poll(), *[file.read_text("utf-8") for file in pair])
            for words, process, pair in zip(commands, running, files, strict=True)
        ]


def _import():
    for library in LIBRARIES:
        __import__(library)


if __name__ == "__main__":
    quick_python.serve(sys.argv[1], _import, quick_python.executable())
