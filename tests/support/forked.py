"""Programs as processes of their own, forked from one that has imported the libraries and nothing of ours.

An import of them takes seconds a process. Where a test needs a real process, to kill it or to see it alone,
but not a start of Python, ``start`` and ``run`` take the words that would follow ``python``:

    done = run("-m", "abd_hub", "list")
    process = start("recipes/own_loop.py", "resnet18", cwd=ROOT)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quick_python

LIBRARIES = [
    *("accelerate", "datasets", "jsonargparse", "matplotlib.figure", "safetensors.torch", "sklearn.datasets"),
    *("timm", "torch", "torchvision.transforms.v2", "tqdm", "transformers.pipelines", "yaml"),
]
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
"""What the libraries read as they are imported is the same for all."""


class Forked:
    """A running program; the methods are those of ``subprocess.Popen``."""

    def __init__(self, words, cwd, stdout, stderr, environment=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)
        try:
            task = (list(words), str(cwd), str(stdout), str(stderr), environment or {})
            self.process = context.Process(target=_program, args=task, daemon=True)
            self.process.start()
        finally:
            for name, value in before.items():
                os.environ.update({name: value}) if value is not None else os.environ.pop(name)
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        """The exit code, or None while it runs."""
        return self.process.exitcode

    def wait(self):
        """The exit code; a signal is a negative number."""
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def wait_or_kill(self, seconds):
        """Waits so long, then ends it."""
        self.process.join(seconds)
        self.kill()


def also(library):
    """Has one more library imported before, where no program was started yet in this process."""
    if library not in LIBRARIES:
        LIBRARIES.append(library)


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


def _program(words, cwd, stdout, stderr, environment):
    os.environ.update(environment)
    sys.executable = quick_python.executable()  # for the processes that the program starts
    for number, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8") for number in (1, 2))  # noqa: PTH123, SIM115
    os.chdir(cwd)
    with contextlib.ExitStack() as last:
        last.callback(sys.stderr.flush)
        last.callback(sys.stdout.flush)
        _main(words)


def _main(words):
    """As ``python`` would."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
