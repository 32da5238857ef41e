"""Lets visitors do random things on the page for minutes, kills their runs, and looks for what goes wrong.

    python recipes/visitors.py --visitors 20 --minutes 10 --output_dir runs/visitors

The page is a real server with a Hub of its own on this machine. Each visitor has a session, sends pictures
that nobody else has, begins runs, cancels them, leaves, gives a token of its own, and asks for what belongs
to others. The processes of some runs are killed. It is wrong where a visitor sees what belongs to
another, where a refusal is not one line, where the server writes a traceback, where its memory grows, and
where a process or a file is left at the end. DIR/acts.jsonl, kills.jsonl and samples.jsonl hold what
happened, also after an interrupt; DIR/visitors.json and the table sum it up, and DIR/visitors.png shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import yaml
from visitor import Act, Town, Visitor
from visitor_checks import Watch, holding, wrong_growth
from visitor_page import Broken, Refused, functions
from visitor_summary import draw, summary
from visitor_table import visitors_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from app_server import SMALL
from distil_server import App, wait
from hub_server import READ, WRITE, HubServer

SAMPLE_EVERY = 1.0
LOOK_EVERY = 0.3
LATEST_KILL = 20.0
"""Limits the seconds from the begin of a run to its kill; a shorter run ends before."""
SEARCH_EVERY = 20
"""Counts the samples between two searches for a token in the server's files."""
MOST_GROWTH = 5.0
"""Limits the growth of the server's memory in the last third, in MB a minute."""


class Campaign:
    """Watches a running page while visitors use it, and writes down what happens."""

    def __init__(self, app: App, options: argparse.Namespace) -> None:
        self.app, self.options = app, options
        self.watch = Watch([READ, WRITE, "secret-of-the-owner"])
        self.acts: list[Act] = []
        self.kills: list[dict[str, Any]] = []
        self.samples: list[dict[str, float]] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.began = time.monotonic()

    def carry_out(self) -> None:
        """Lets the visitors act until the time is over, and looks for what is left when they have gone."""
        town = self.town(self.began + 60 * self.options.minutes)
        visitors = [Visitor(number, town) for number in range(self.options.visitors)]
        others = [threading.Thread(target=work, daemon=True) for work in (self.kill, self.sample)]
        for thread in (*visitors, *others):
            thread.start()
        try:
            for visitor in visitors:
                visitor.join()
            self.over.set()
            self.after()
        except KeyboardInterrupt:
            print("interrupted; what was measured is kept", file=sys.stderr)
            self.watch.closed = True
        self.over.set()
        for thread in others:
            thread.join()

    def town(self, until: float) -> Town:
        """Returns what visitors share, who act until then."""
        settings = json.loads((SMALL[0] / "config.json").read_text(encoding="utf-8"))
        return Town(
            address=self.app.address,
            known=functions(self.app.address),
            side=settings["pretrained_cfg"]["input_size"][-1],
            seed=self.options.seed,
            pause=self.options.pause,
            watch=self.watch,
            note=self.note,
            began=self.began,
            until=until,
            places=lambda: [str(folder) for folder in self.app.folders()],
        )

    def after(self) -> None:
        """Looks for what is left when all visitors have gone, and whether the page still works."""
        last = Visitor(self.options.visitors, self.town(0.0))
        with self.judged("after all have left"):
            wait(self.is_idle, 60)
            last.do("open")
            last.do("try")
            last.page.call("distil", *last.distillation(1), patience=300)
            last.page.leave()
            wait(self.is_idle, 60)
        self.take_sample()

    def is_idle(self) -> bool:
        """Returns whether no run is there, and no folder of one."""
        return not self.app.runs() and not self.app.folders()

    def end(self) -> None:
        """Ends the server, and looks for what it leaves."""
        children = []
        with contextlib.suppress(psutil.Error):  # an interrupt may have ended it
            children = psutil.Process(self.app.process.pid).children(recursive=True)
        self.search()
        self.app.stop()
        left = [child.pid for child in children if child.is_running() and child.status() != "zombie"]
        if left or list(self.app.place.iterdir()):
            names = [file.name for file in self.app.place.iterdir()]
            self.watch.found.append(f"the server leaves processes {left} and files {names}")
        said = self.app.output.read_text(encoding="utf-8")
        if "Traceback" in said:
            at = said.index("Traceback")
            self.watch.found.append(f"the server's output has a traceback: {said[at : at + 3000]}")
        if self.app.hub.strangers:
            self.watch.found.append(f"the server asked other hosts: {self.app.hub.strangers[:3]}")
        if wrong := wrong_growth(self.samples, MOST_GROWTH):
            self.watch.found.append(wrong)

    @contextlib.contextmanager
    def judged(self, when: str) -> Iterator[None]:
        try:
            yield
        except (AssertionError, Refused, Broken) as error:
            left = [self.app.runs(), [str(folder) for folder in self.app.folders()]]
            self.watch.found.append(f"{when}: {error}; runs and folders: {left}")

    def note(self, act: Act) -> None:
        """Writes down what a visitor has done, until an interrupt ends the server."""
        if self.watch.closed:
            return
        with self.lock:
            self.acts.append(act)
        self.write("acts.jsonl", asdict(act))

    def write(self, name: str, row: dict[str, Any]) -> None:
        with self.lock, (self.options.output_dir / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    # ------------------------------------------------------------------------------------------- threads

    def kill(self) -> None:
        """Kills the processes of some runs at random moments."""
        chance = random.Random(f"{self.options.seed} kills")
        last, moment = 0, math.inf
        while not self.over.wait(LOOK_EVERY):
            for process in self.app.runs()[:1]:
                if process != last:
                    chosen = chance.random() < self.options.kill_share
                    last, after = process, chance.uniform(0, LATEST_KILL)
                    moment = time.monotonic() + after if chosen else math.inf
                if time.monotonic() >= moment:
                    self.kill_one(process)
                    moment = math.inf

    def kill_one(self, process: int) -> None:
        """Kills the process of a run, and notes whose it was."""
        row = {"t": round(time.monotonic() - self.began, 2), "run": seed_of(process)}
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            self.kills.append(row)
            self.write("kills.jsonl", row)

    def sample(self) -> None:
        """Measures the server and its children, and looks for tokens in its files now and then."""
        while not self.over.wait(SAMPLE_EVERY):
            self.take_sample()
            if len(self.samples) % SEARCH_EVERY == 0:
                self.search()

    def take_sample(self) -> None:
        server = psutil.Process(self.app.process.pid)
        children = 0
        for child in server.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                children += child.memory_info().rss
        row = {
            "t": round(time.monotonic() - self.began, 2),
            "server_mb": server.memory_info().rss / 1e6,
            "children_mb": children / 1e6,
            "threads": server.num_threads(),
            "files": server.num_fds(),
        }
        self.samples.append(row)
        self.write("samples.jsonl", row)

    def search(self) -> None:
        files = [self.app.output, *(file for file in self.app.place.rglob("*") if file.is_file())]
        for file in holding(files, "hf_visitor"):
            self.watch.found.append(f"a token is in {file}")


def seed_of(process: int) -> int:
    """Returns the seed of a run, by which its visitor knows it; -1 where it has just ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        config = next(Path(os.fsdecode(word)) for word in words if word.endswith(b"request.yaml"))
        return int(yaml.safe_load(config.read_text(encoding="utf-8"))["seed"])
    except (OSError, StopIteration, KeyError, ValueError, TypeError):
        return -1


def wrong_kills(kills: list[dict[str, Any]], acts: list[Act]) -> list[str]:
    """Returns the killed runs whose visitors were not told so, though they still waited."""
    ends = {act.run: act for act in acts if act.run >= 0}
    quiet = ("killed", "cancelled", "left", "wrong")
    told = [(kill["run"], ends.get(kill["run"])) for kill in kills]
    return [
        f"run {run} was killed, and ended {act.outcome}"
        for run, act in told
        if act and act.outcome not in quiet
    ]


@contextlib.contextmanager
def page() -> Iterator[App]:
    """Serves the page from a process of its own, which has ended at the end."""
    with tempfile.TemporaryDirectory() as folder, HubServer() as hub:
        app = App(Path(folder), hub, sys.executable)
        try:
            wait(app.serves)
            yield app
        finally:
            app.stop()


def main() -> int:
    options = arguments()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if any(options.output_dir.iterdir()):
        raise SystemExit(f"--output_dir: {options.output_dir} is not empty; give another folder")
    # A shell starts what it puts in the background so, and the page could not be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with page() as app:
        campaign = Campaign(app, options)
        campaign.carry_out()
        campaign.end()
    campaign.watch.found += wrong_kills(campaign.kills, campaign.acts)
    facts = summary(vars(options), campaign.acts, campaign.kills, campaign.samples, campaign.watch.found)
    text = json.dumps(facts, indent=1) + "\n"
    (options.output_dir / "visitors.json").write_text(text, encoding="utf-8")
    draw(facts, campaign.acts, campaign.samples, options.output_dir / "visitors.png")
    print(visitors_table(facts))
    print(*facts["violations"], sep="\n")
    return int(bool(facts["violations"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=20, help="visitors at once")
    parser.add_argument("--minutes", type=float, default=10, help="time of the whole")
    parser.add_argument("--pause", type=float, default=2, help="mean seconds between two acts of a visitor")
    parser.add_argument("--kill_share", type=float, default=0.4, help="share of the runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="decides what the visitors do")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/visitors"), help="folder of outcomes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
