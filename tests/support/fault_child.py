"""Runs ``abd-hub`` with a fault at one of its own writes: ``python fault_child.py FAULT WORDS...``.

FAULT is JSON. ``at`` is the number of the event at which the fault comes: an open for writing, a rename, a
removal, a new folder or an fsync, in the folder of the process or below. ``kind`` is the fault:

- ``kill`` kills the process and its group before the event,
- ``cut`` kills it as soon as a file grows beyond ``bytes``, in the middle of that write,
- ``limit`` makes every write fail that lets a file grow beyond ``bytes``,
- ``full`` fills the disk but for ``bytes``,
- ``readonly`` takes the right to write from the folder and all in it,
- ``clock`` sets the clock back by a year.

``count`` is a file for the number of events. The clock is Python's, ``time.time``; the kernel's stays.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

A_YEAR = 365 * 86400
FILLER = ".filler"
CAPABILITIES = 0x20080522
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Fault:
    """Counts the events of this process, and lets the fault come at its own."""

    def __init__(self, kind="", at=0, bytes=0, count=""):
        self.kind, self.at, self.bytes, self.count = kind, at, bytes, count
        self.place = os.path.realpath(os.getcwd())  # noqa: PTH109
        self.process = os.getpid()
        self.events = 0
        self.busy = False

    def seen(self, event, arguments):
        """Is the audit hook."""
        if self.busy or os.getpid() != self.process or not self.is_change(event, arguments):
            return
        self.busy = True
        try:
            self.happen()
        finally:
            self.busy = False

    def is_change(self, event, arguments):
        """Whether the event changes something below the folder."""
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & WRITING
            return bool(writes) and self.is_ours(path)
        return event in CHANGES and self.is_ours(arguments[0])

    def is_ours(self, path):
        """Whether a path is in the folder; descriptors are not."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.realpath(os.path.dirname(os.fsdecode(path)) or ".").startswith(self.place)  # noqa: PTH120

    def happen(self):
        """Counts one event, and lets the fault come at the right one."""
        self.events += 1
        if self.count:
            Path(self.count).write_text(str(self.events), "ascii")
        if self.kind and self.events >= self.at and getattr(self, f"_{self.kind}")():
            self.kind = ""

    def _kill(self):
        os.killpg(0, signal.SIGKILL)

    def _cut(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        return self._limit()

    def _limit(self):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, self.bytes))
        return True

    def _full(self):
        with open(FILLER, "wb", buffering=0) as filler:  # noqa: PTH123
            for size in (1 << 20, 4096):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
            filler.truncate(max(0, filler.tell() - self.bytes))
        return True

    def _readonly(self):
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(CAPABILITIES), (ctypes.c_uint32 * 6)())  # root, too
        give_mode(self.place, 0o555, 0o444)
        return True

    def _clock(self):
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() - A_YEAR
        time.time_ns = lambda: now_ns() - A_YEAR * 10**9
        return True


def give_mode(place, folders, files):
    """Gives these modes to a folder and all in it."""
    for path in [Path(place), *Path(place).rglob("*")]:
        path.chmod(folders if path.is_dir() else files)


def arm(fault):
    """Lets the fault come at its event in this process."""
    armed = Fault(**fault)
    sync = os.fsync

    def fsync(handle):
        armed.seen("os.mkdir", (".",))  # it has no event of its own
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(armed.seen)


def shorten():
    """Lets inspections, purifications and the demo take less time."""
    from abd_hub.core import registry
    from abd_hub.runs import demo, inspect

    inspect.PATCHES = 300
    registry.get("inspections", "trigger_inversion").__init__.__kwdefaults__["steps"] = 20
    registry.get("purifications", "trigger_unlearning").__init__.__kwdefaults__["steps"] = 10
    for settings in demo.STUDENTS.values():
        method = settings["synthesizer"]
        settings[method] = settings[method] | {"rounds": 20}
    recipe = demo.TeacherRecipe
    demo.TeacherRecipe = lambda **fields: recipe(**fields | {"epochs": 2})
    demo.CHILD = "fault_run"


def run(fault, words):
    """Runs the command; returns its exit code."""
    from abd_hub.cli import main

    shorten()
    arm(json.loads(fault))
    if words[0] == "page":
        import fault_page

        return fault_page.run(*words[1:])
    return main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
