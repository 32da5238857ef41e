"""Judges how abd-hub takes an input: it works, or one line says what is wrong, and nothing else happens.

Inputs are read in forked processes. Such a process reports each open file, program and connection through an
audit hook. A new one is forked where an input ends it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz_kinds import KINDS, Kind

from abd_hub.core.errors import InputError

ROOT = Path(__file__).parents[2]
MOST_BYTES = 3 << 30
"""Largest memory of a process that reads an input, libraries included."""
MOST_SECONDS = 60
LONGEST_MESSAGE = 2_000
"""Characters of a refusal; a page of terminal."""
LIBRARIES = tuple(
    str(Path(place).resolve()) + "/"
    for place in (
        sys.prefix,
        sys.base_prefix,
        *(ROOT / name for name in ("abd_hub", "abd_hub.egg-info", "app", "tests", "recipes")),
    )
)
SYSTEM = ("/usr/share/", "/usr/lib/", "/sys/", "/proc/meminfo", "/proc/cpuinfo", "/dev/null", "/dev/urandom")
OWN_STATE = re.compile(r"/proc/\d+/(mounts|mountinfo|status|statm|stat|cgroup)")
"""What libraries read of their own process."""
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
REACHES = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.gethostbyname", "socket.sendto")


@dataclass(frozen=True)
class Outcome:
    """How one input was taken."""

    kind: str
    number: int
    outcome: str
    """Is ``works``, ``refused`` or ``wrong``."""
    seconds: float = 0.0
    bytes: int = 0
    message: str = ""
    why: str = ""
    """Says what is wrong."""


class Watch:
    """Notes what happens outside of an input's folder while it is read."""

    def __init__(self) -> None:
        self.roots: tuple[str, ...] = ()
        self.notes: list[str] = []
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def within(self, *roots: Path) -> Iterator[list[str]]:
        """Yields the notes of this block, in which files below these folders may be opened."""
        self.notes = []
        self.roots = tuple(f"{root.resolve()}/" for root in roots)
        try:
            yield self.notes
        finally:
            self.roots = ()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.roots:
            return
        if event in ("open", "os.listdir", "os.scandir") and arguments:
            self._opened(event, arguments[0])
        elif event in STARTS:
            self.notes.append(f"starts a program: {event} {str(arguments[:2])[:200]}")
        elif event in REACHES:
            self.notes.append(f"reaches for the network: {event} {str(arguments[1:3])[:200]}")
            raise OSError("no network in this process")

    def _opened(self, event: str, place: Any) -> None:
        if isinstance(place, int) or place is None:
            return
        path = os.path.realpath(os.fsdecode(place))
        allowed = (*self.roots, *LIBRARIES, *SYSTEM)
        if not f"{path}/".startswith(allowed) and not OWN_STATE.fullmatch(path):
            self.notes.append(f"{event} of {path!r:.200}")


def judge(kind: Kind, examples: Path, folder: Path, watch: Watch) -> Outcome:
    """Reads the input in ``folder``."""
    began, message, why = time.perf_counter(), "", ""
    _forget_peak()
    with watch.within(folder) as notes:
        try:
            kind.read(examples, folder)
        except InputError as error:
            message = str(error)
            why = fault_of(message)
        except BaseException as error:  # Whatever else is raised is a finding.
            place = traceback.extract_tb(error.__traceback__)
            lines = [f"{Path(step.filename).name}:{step.lineno}" for step in place][-6:]
            why = f"raises {type(error).__name__}: {str(error)[:300]} at {' '.join(lines)}"
    seconds, peak = time.perf_counter() - began, _peak()
    if (folder / "ran").exists() or any(folder.rglob("ran")):
        notes.append("has run code")
    if peak > MOST_BYTES:
        notes.append(f"takes {peak / 2**30:.1f} GiB of memory")
    why = "; ".join([*([why] if why else []), *dict.fromkeys(notes)])[:1_500]
    outcome = "wrong" if why else "refused" if message else "works"
    return Outcome(kind.name, 0, outcome, round(seconds, 4), peak, message[:LONGEST_MESSAGE], why)


def fault_of(message: str) -> str:
    """Says what is wrong with a refusal; empty where nothing is."""
    if not message.strip():
        return "refuses without a word"
    if len(message.splitlines()) != 1:
        return f"refuses in several lines: {message[:300]!r}"
    hidden = sorted({char for char in message if unicodedata.category(char)[0] == "C"})
    if hidden:
        return f"refuses with hidden characters {hidden[:5]!a}: {message[:300]!a}"
    if len(message) > LONGEST_MESSAGE:
        return f"refuses in {len(message)} characters: {message[:200]!r}"
    return ""


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The largest memory of this process since it was forgotten, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _now() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write_input(kind: Kind, number: int, seed: int, examples: Path, folder: Path) -> None:
    """Makes one input anew; the seed, the kind and the number alone decide its bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.write(examples, folder, random.Random(f"{seed} {kind.name} {number}"))


def read_inputs(
    jobs: list[tuple[str, int]], seed: int, examples: Path, folder: Path, *, most_seconds: int = MOST_SECONDS
) -> Iterator[Outcome]:
    """Yields the outcome of each input, (name of the kind, number), in order."""
    waiting = list(jobs)
    while waiting:
        for outcome in _one_process(list(waiting), seed, examples, folder, most_seconds):
            waiting.pop(0)
            yield outcome


def _one_process(
    jobs: list[tuple[str, int]], seed: int, examples: Path, folder: Path, most_seconds: int
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    task = (jobs, seed, examples, folder, most_seconds, sender)
    process = context.Process(target=_read_all, args=task, daemon=True)
    process.start()
    sender.close()
    done = 0
    try:
        while done < len(jobs):
            if not receiver.poll(most_seconds + 30):
                os.kill(process.pid, signal.SIGKILL)
            yield Outcome(**json.loads(receiver.recv_bytes()))
            done += 1
    except (EOFError, ConnectionResetError):
        process.join()
        name, number = jobs[done]
        ends = {-signal.SIGALRM: f"takes more than {most_seconds} seconds", -signal.SIGKILL: "is killed"}
        why = ends.get(process.exitcode, f"ends the process with {process.exitcode}")
        yield Outcome(KINDS[name].name, number, "wrong", why=why)
    finally:
        process.join()
        receiver.close()


def _read_all(
    jobs: list[tuple[str, int]], seed: int, examples: Path, folder: Path, most_seconds: int, sender: Any
) -> None:
    import torch

    torch.set_num_threads(1)
    _limit_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    watch = Watch()
    for name, number in jobs:
        write_input(KINDS[name], number, seed, examples, folder)
        os.chdir(folder)
        tempfile.tempdir = str(folder)
        signal.alarm(most_seconds)
        found = judge(KINDS[name], examples, folder, watch)
        signal.alarm(0)
        sender.send_bytes(json.dumps(asdict(found) | {"number": number}).encode())
    os._exit(0)


def _limit_memory() -> None:
    """Twice of what is allowed may be taken on top of the libraries, so that the machine stays whole."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * MOST_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forked(work: Any, *arguments: Any) -> None:
    """Runs a function in a forked process, so that this one starts no threads of the libraries."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, f"{work.__name__} ended with {process.exitcode}"
