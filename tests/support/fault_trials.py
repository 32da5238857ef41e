"""Carries out a command with a fault, then the same command again, and judges what is left each time."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import fault_files
import fault_host
from fault_child import A_YEAR, FILLER, give_mode
from fault_outcome import Outcome
from fault_scenes import SCENES, make_examples, prepare
from hub_server import WRITE, HubServer

FAULTS = ("kill", "kill at a write", "kill in a write", "kill of a resume", "disk full", "read-only folder")
FAULTS += ("clock set back", "two at once")
ON_DISK = ("disk full", "read-only folder")
DISK = "96m"
LONGEST = 300.0
SAID = re.compile(r"abd-hub: \S.*")
FINISHED = re.compile(r"holds a finished run|exists already|is not an empty folder")


@dataclass(frozen=True)
class Reference:
    """Holds what an unbroken run of a scene gives."""

    seconds: float
    events: int
    """Counts the command's own changes of its folder; of a push, its requests."""
    results: dict[str, str]


@dataclass
class Done:
    """Is the end of a process: its exit code and what it wrote to its error stream."""

    code: int
    said: str

    @property
    def faults(self):
        """What a user would not understand: a traceback, or a refusal of several lines."""
        if "Traceback" in self.said:
            return [f"a traceback: {' / '.join(self.said.split('Traceback', 1)[1].splitlines()[-6:])[-900:]}"]
        last = next((line for line in reversed(self.said.splitlines()) if line.strip()), "")
        return [] if self.code <= 0 or SAID.fullmatch(last) else [f"exit code {self.code}: {last[:200]!r}"]


class Bench:
    """Has the folder of the trials, the Hub, and what unbroken runs give; a context manager.

    A small one forks the commands from this process. It has no Hub, and serves commands that need no teacher.
    """

    def __init__(self, out, seed, small=False):
        self.out, self.seed = Path(out).resolve(), seed
        self.kept = self.out / "references.json"
        known = json.loads(self.kept.read_text("utf-8")) if self.kept.exists() else {}
        self.references = {name: Reference(**found) for name, found in known.items()}
        self.hub = HubServer()
        self.small = small

    def __enter__(self):
        self.examples, self.environment = self.out / "examples", {}
        if self.small:
            self.out.mkdir(parents=True, exist_ok=True)
            return self
        self.hub.__enter__()
        home = self.out / "home"
        home.mkdir(parents=True, exist_ok=True)
        own = {"TMPDIR": str(home), "MPLCONFIGDIR": str(home), "RAY_worker_niceness": "0"}
        self.environment = self.hub.environment(home, WRITE, HF_HUB_DISABLE_PROGRESS_BARS="1", **own)
        fault_host.prepare(self.environment)
        if not self.examples.exists():
            part = self.out / "making"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make_examples(part, self._must)
            part.rename(self.examples)
        return self

    def __exit__(self, *_):
        if not self.small:
            self.hub.__exit__()

    def start(self, words, folder, fault=None):
        """Begins a command."""
        output = self.out / f"said-{folder.name}-{time.monotonic_ns()}"
        start = fault_host.Fork if self.small else fault_host.start
        process = start(words, json.dumps(fault or {}), folder, output, self.environment)
        process.said = output
        return process

    def end(self, process, seconds=LONGEST):
        """Waits for its end."""
        process.wait_or_kill(seconds)
        code = process.wait()
        said = process.said.with_name(f"{process.said.name}.err")
        text = said.read_text("utf-8", errors="replace")
        for name in (said, said.with_suffix(".out")):
            name.unlink()
        return Done(code, text)

    def run(self, words, folder, fault=None):
        """Carries out a command."""
        return self.end(self.start(words, folder, fault))

    def _must(self, words, folder):
        done = self.run(words, folder)
        assert done.code == 0, done.said

    def folder(self, scene, name):
        """Makes a new folder with what the command needs."""
        folder = self.out / "work" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def reference(self, scene):
        """What an unbroken run gives, which two runs agree on."""
        if scene.name not in self.references:
            pair = [self._unbroken(scene, index) for index in range(2)]
            different = fault_files.differences(pair[0].results, pair[1].results)
            assert not different, f"two unbroken runs of {scene.name} differ: {different}"
            self.references[scene.name] = pair[1]
            known = {name: dataclasses.asdict(found) for name, found in self.references.items()}
            self.kept.write_text(json.dumps(known), "utf-8")
        return self.references[scene.name]

    def _unbroken(self, scene, index):
        folder = self.folder(scene, f"unbroken{index}")
        prepare(scene, self.examples, folder)
        count = self.out / "count"
        began = time.monotonic()
        done = self.run(scene.command(self._made(scene, "unbroken")), folder, {"count": str(count)})
        seconds = time.monotonic() - began
        assert done.code == 0 and not done.faults, done.said
        events = len(self.hub.requests) or int(count.read_text())
        count.unlink(missing_ok=True)
        found = self.results(scene, folder, "unbroken")
        self.hub.forget()
        shutil.rmtree(folder)
        return Reference(seconds, events, found)

    def _made(self, scene, name):
        return f"acme/{name}" if scene.repository else ""

    def results(self, scene, folder, name):
        """The results of a scene: of its folder, and of its repository."""
        found = fault_files.results(folder)
        repo = self.hub.repos.get(("model", f"acme/{name}"))
        sent = repo.files if scene.repository and repo else {}
        digests = {
            f"hub/{file}": fault_files.digest(file, data.replace(name.encode(), b"NAME"))
            for file, data in sent.items()
        }
        return found | digests


def trial(bench, scene_name, fault, number):
    """Carries out one trial, whose moments follow from the seed."""
    scene, chance = SCENES[scene_name], random.Random(f"{bench.seed} {scene_name} {fault} {number}")
    reference = bench.reference(scene)
    name = f"trial{number}"
    folder = bench.folder(scene, name)
    began = time.monotonic()
    disk = fault == "disk full"
    if disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        prepare(scene, bench.examples, folder)
        one = _Trial(bench, scene, reference, folder, name, chance)
        try:
            where, why = one.carry_out(fault)
        except AssertionError as error:
            where, why = "", [str(error)[:300]]
        left = len(fault_files.leftovers(folder))
    finally:
        bench.hub.forget()
        if disk:
            subprocess.run(["umount", "-l", folder], check=True)
    if not why:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - began, 1)
    return Outcome(scene_name, fault, number, where, "; ".join(dict.fromkeys(why)), left, seconds)


class _Trial:
    def __init__(self, bench, scene, reference, folder, name, chance):
        self.bench, self.scene, self.reference = bench, scene, reference
        self.folder, self.name, self.chance = folder, name, chance
        self.before = fault_files.results(folder)
        self.made = bench._made(scene, name)

    def carry_out(self, fault):
        """Where the fault came, and what is wrong."""
        match fault:
            case "two at once":
                return self.two()
            case "kill of a resume":
                where, why = self.strike(self.chance.choice(["kill", "kill at a write"]))
                again, more = self.strike(self.chance.choice(["kill", "kill at a write", "kill in a write"]))
                where, why = f"{where}, then {again}", why + more
            case "clock set back":
                where, why = self.strike("kill at a write")
                self.back()
                at = self.chance.randint(1, max(1, self.reference.events))
                return f"{where}, clock at event {at}", why + self.again({"kind": "clock", "at": at})
            case _:
                where, why = self.strike(fault)
        return where, why + self.again()

    def strike(self, fault):
        """Lets the command meet the fault, and judges what is left."""
        if self.scene.repository and fault != "kill":
            at = self.chance.randint(1, self.reference.events)
            where = f"at request {at} of {self.reference.events}"
            process = self.start()
            while len(self.bench.hub.requests) < at and process.wait(0.0005) is None:
                pass
            self.kill(process)
        elif fault == "kill":
            after = self.chance.uniform(0, self.reference.seconds)
            process = self.start()
            where = f"after {after / self.reference.seconds:.0%} of its time"
            process.wait(after)
            self.kill(process)
        else:
            at = self.chance.randint(1, max(1, self.reference.events))
            kinds = {"kill in a write": "cut", "disk full": "full", "read-only folder": "readonly"}
            room = (
                int(10 ** self.chance.uniform(1, 5))
                if fault != "disk full"
                else 4096 * self.chance.randint(0, 9)
            )
            given = {"kind": kinds.get(fault, "kill"), "at": at, "bytes": room}
            process = self.start(given)
            where = f"at event {at} of {self.reference.events}"
            where += f", {room} bytes" if fault in ("kill in a write", "disk full") else ""
        done = self.bench.end(process)
        self.alone()
        if fault in ON_DISK:
            self.free()
        return where, [*(done.faults if fault in ON_DISK else []), *self.judge()]

    def start(self, fault=None):
        return self.bench.start(self.scene.command(self.made, self.scene.resumes), self.folder, fault)

    def kill(self, process):
        """Kills the group or the process itself."""
        if self.chance.random() < 0.5:
            process.kill()
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def alone(self):
        """Waits until no process works in the folder any more."""
        until = time.monotonic() + 90
        while time.monotonic() < until and _workers(self.folder):
            time.sleep(0.05)
        left = _workers(self.folder)
        assert not left, f"processes {left} outlive the command"

    def free(self):
        """Gives the disk its room and its permission again."""
        came = (self.folder / FILLER).exists() or not self.folder.stat().st_mode & 0o200
        assert came, "the fault never came"
        give_mode(self.folder, 0o755, 0o644)
        (self.folder / FILLER).unlink(missing_ok=True)

    def back(self):
        """Makes every file one of the future, as it is after the clock was set back."""
        for path in self.folder.rglob("*"):
            if not path.is_symlink():
                status = path.stat()
                os.utime(path, (status.st_atime + A_YEAR, status.st_mtime + A_YEAR))

    def judge(self):
        """What is lost or half-written."""
        why = fault_files.broken(self.folder)
        if why:
            return why
        found = self.bench.results(self.scene, self.folder, self.name)
        for name, digest in self.before.items():
            if found.get(name) not in (digest, self.reference.results.get(name)):
                why.append(f"{name} is {'another' if name in found else 'lost'}")
        sent = {name: digest for name, digest in found.items() if name.startswith("hub/")}
        wanted = {name: digest for name, digest in self.reference.results.items() if name.startswith("hub/")}
        if set(sent) - {"hub/.gitattributes"} and sent != wanted:
            why.append("the repository is half")
        return why

    def again(self, fault=None):
        """Carries out the same command to its end, and compares its results."""
        done = self.bench.end(self.start(fault))
        self.alone()
        why = [*done.faults, *self.judge()]
        finished = done.code == 2 and FINISHED.search(done.said)
        if self.scene.name == "demo" and finished:
            return why + self.elsewhere()
        if done.code and not finished:
            why.append(f"the same command again ends with {done.code}: {done.said.strip()[-200:]}")
        return why + self.compare(self.folder)

    def elsewhere(self):
        """Carries out a command that does not resume in a new folder."""
        folder = self.folder / "other"
        folder.mkdir()
        done = self.bench.run(self.scene.command(), folder)
        found = fault_files.results(folder)
        return [*done.faults, *fault_files.differences(found, self.reference.results)]

    def compare(self, folder):
        """The results that are not those of an unbroken run."""
        found = self.bench.results(self.scene, folder, self.name)
        return fault_files.differences(found, self.reference.results)

    def two(self):
        """Starts the command twice; one of both ends well, and the other one too or in one line."""
        after = self.chance.uniform(0, self.reference.seconds * 0.8)
        command = self.scene.command(self.made)
        first = self.bench.start(command, self.folder)
        first.wait(after)
        second = self.bench.start(command, self.folder)
        both = [self.bench.end(process) for process in (first, second)]
        codes = sorted(done.code for done in both)
        why = [fault for done in both for fault in done.faults] + self.judge()
        if codes not in ([0, 0], [0, 2]):
            why.append(f"both end with {codes}")
        return f"after {after / self.reference.seconds:.0%} of its time", why + self.compare(self.folder)


def _workers(folder):
    """Processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").readlink()
        except OSError:
            continue
        if here == folder or folder in here.parents:
            found.append(int(entry.name))
    return found
