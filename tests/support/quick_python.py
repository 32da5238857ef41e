"""A ``python`` that starts at once: each of its processes is forked from one that has imported torch.

An import of torch takes seconds a process. ``executable()`` is a program that takes the words of ``python``:

    subprocess.run([quick_python.executable(), "-m", "abd_hub", "env"], env=environment, cwd=folder)

Input, output, environment, folder, signals and exit code are those of a ``python`` of its own. What it starts
by ``sys.executable`` starts at once, too. The process that a test gets only waits for the forked one, so a
test that measures memory or priority needs a real one. The libraries of Hugging Face read the environment as
they are imported; neither they nor anything of ours is imported before.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

LIBRARIES = [
    *("filelock", "jinja2", "jsonargparse", "matplotlib.backends.backend_agg", "matplotlib.figure"),
    *("multiprocessing.spawn", "pydantic", "pydantic.json_schema", "scipy.ndimage", "sklearn.datasets"),
    *("torch", "torchvision", "tqdm", "yaml"),
]
"""What the first host imports, before its first process."""
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 26),
    "MALLOC_TOP_PAD_": str(1 << 24),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
"""Keeps freed memory in the process: asking the kernel for it again takes a twentieth of all tests' time."""
CLIENT = Path(__file__).with_name("quick_client.py")
_NAME = "ABD_HUB_TESTS_PYTHON"
_LARGEST = 1 << 22


def executable() -> str:
    """The program; the first call, in a process whose children inherit the variable, prepares it for all."""
    return another(_NAME, sys.executable, __file__, MEMORY)


def another(name, python, file, environment, *words) -> str:
    """As ``executable``, with a host of its own, which is ``file``; the variable ``name`` holds the program.

    Where ``python`` is the program of the first host, the new one is forked from what that has imported.
    """
    if name not in os.environ:
        folder = tempfile.mkdtemp(prefix="quick-")
        program = Path(folder, "python")
        program.write_text(f"#!{sys.executable} -IS\n{CLIENT.read_text('utf-8')}", "utf-8")
        program.chmod(0o700)
        # The host ends as this pipe does.
        host = subprocess.Popen(
            [python, file, folder, *words],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert host.stdout.read(1) == b"+", "the host of the processes does not start"
        os.environ[name] = str(program)
        atexit.register(_forget, host, os.getpid())
    return os.environ[name]


def _forget(host, owner):
    if os.getpid() == owner:
        host.stdin.close()
        host.wait()


# ----------------------------------------------------------------------------------------------- the host


def import_libraries():
    """Imports the libraries, and compiles what no process may have imported before it starts."""
    for library in LIBRARIES:
        __import__(library)
    keep_code(Path(__file__).parents[2] / "abd_hub")


def keep_code(package):
    """Where PYTHONDONTWRITEBYTECODE is set, each process would compile the package: a third of a second."""
    kept = {
        str(file): compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        for file in package.rglob("*.py")
    }
    read = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: kept.get(self.path) or read(self, name)


class Host:
    """Forks a process for each connection; a connection that ends too early ends its process."""

    def __init__(self, folder, prepare, python):
        self.prepare = prepare
        self.prepared = False
        self.python = python
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(Path(folder, "socket")))
        self.listener.listen(100)
        self.running = {}
        self.alarm, other = socket.socketpair()
        other.setblocking(False)
        signal.set_wakeup_fd(other.fileno(), warn_on_full_buffer=False)
        self.other = other

    def next_task(self):
        """What to do, in the process that does it; None in the host, at its end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([0, self.listener, self.alarm, *self.running], [], [])
            if 0 in ready:
                for process in self.running.values():
                    end(process)
                return None
            if self.alarm in ready:
                self.alarm.recv(4096)
                self.tell_ends()
            for connection in [one for one in ready if one in self.running]:
                end(self.running[connection])
            if self.listener in ready:
                task = self.begin(self.listener.accept()[0])
                if task is not None:
                    return task

    def begin(self, connection):
        """The task in the new process, None in the host."""
        if not self.prepared:
            self.prepare()
            assert threading.active_count() == 1, threading.enumerate()
            gc.freeze()
            self.prepared = True
        text, files, _, _ = socket.recv_fds(connection, _LARGEST, 3)
        while not text.endswith(b"\n"):
            more = connection.recv(_LARGEST)
            if not more:  # it was killed already
                return None
            text += more
        process = os.fork()
        if process:
            self.running[connection] = process
            with contextlib.suppress(OSError):  # who waits was killed meanwhile; select tells it, too
                connection.sendall(f"{process}\n".encode())
            for file in files:
                os.close(file)
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        random.seed()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        for one in (connection, self.listener, self.alarm, self.other, *self.running):
            one.close()
        return {**json.loads(text), "python": self.python}

    def tell_ends(self):
        """Sends each exit code to who waits for it."""
        for connection, process in list(self.running.items()):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                del self.running[connection]
                with contextlib.suppress(OSError):  # who waits was killed meanwhile
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                connection.close()


def end(process):
    """Kills a process and what it has started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet
        os.kill(process, signal.SIGKILL)


def program(words, environment, folder, python):
    """As ``python *words`` would; ``python`` is what it starts by ``sys.executable``."""
    os.chdir(folder)
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*paths, *[path for path in sys.path[1:] if path not in (*before, *paths)]]
    sys.executable = python
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        number = ("stdin", "stdout", "stderr").index(name)
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    sys.modules.pop("sitecustomize", None)
    tempfile.tempdir = None  # the folder of the host's own environment
    site.execsitecustomize()
    safe = False
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c", "-"):
        safe = safe or words[0] == "-P"
        words = words[1:]
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        sys.path[:0] = [] if safe else [str(Path.cwd())]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[:0] = [] if safe else [""]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv = words
        sys.path[:0] = [] if safe else [str(Path(first).resolve().parent)]
        runpy.run_path(first, run_name="__main__")


def exit_code(task):
    """Runs the program and what ``python`` runs at its end."""
    code = 0
    try:
        program(**task)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:  # python itself ends with a traceback, and by a signal where it was one
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def leave(code):
    """Ends at once; to take down all that is imported would take a second."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(folder, prepare, python):
    """Is a host until its input ends; ``prepare`` is called once, before the first process is forked."""
    host = Host(folder, prepare, python)
    os.write(1, b"+")
    os.dup2(2, 1)
    if task := host.next_task():
        leave(exit_code(task))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve(sys.argv[1], import_libraries, str(Path(sys.argv[1], "python")))
