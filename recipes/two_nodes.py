"""Run a sweep on a Ray of two nodes, break the nodes while it runs, and judge what is left.

    python recipes/two_nodes.py --runs 200 --seed 0 --out runs/two-nodes

The nodes are on this machine, each in a network namespace of its own where this user may make one. At
moments that follow from the seed, the recipe kills Ray workers, a node, its raylet and the command of the
sweep, pulls the cable between the nodes, and stops and restarts the head. Where the command has ended, the
recipe repeats it. At the end each run must be there once, whole, and as it is when done alone.
OUT/events.jsonl holds every event, and OUT/two_nodes.json the outcome. A second call continues there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray_nodes
import sweep_check
import yaml
from ray_nodes import HEAD, NODES, ROOT, WORKER, Cluster, Network, until
from table_text import table

sys.path.insert(0, str(ROOT / "tests" / "support"))

import forked
import quick_python

COUNTS = {
    "worker": 1 / 10,
    "node": 1 / 70,
    "raylet": 1 / 70,
    "head": 1 / 70,
    "driver": 1 / 50,
    "cable": 1 / 100,
}
"""Faults of each kind for each run of the sweep; at least one of each."""
_LAST = 0.9
"""No fault waits for more than this share of the runs."""
_STANDSTILL = 600.0
_TEACHER = {
    "data": {"dataset": "digits"},
    "network": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
    "recipe": "fast",
    "fast": {"epochs": 2},
    "poison": {"trigger": "badnet_sq", "target": 0, "options": {"size": 2, "margin": 0}},
}
_RUN = {
    "teacher": {"id": "local-dir:teacher"},
    "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
    "synthesizer": "zskt",
    "zskt": {"rounds": 8, "batch_size": 4, "student_steps": 1, "attention_weight": 0, "z_dim": 4},
    "shuffling_vaccine": {"check": False, "layers": 2},
    "purification": "none",
    "trainer": {"checkpoint_every": 2, "log_every": 1},
    "evaluation": {
        "dataset": "digits",
        "limit": 40,
        "triggers": [{"name": "badnet_sq", "target": 0, "options": {"size": 2, "margin": 0}}],
    },
}


@dataclass(frozen=True)
class Fault:
    """Is one fault of the plan."""

    kind: str
    after: int
    """Counts the finished runs before it comes."""
    delay: float
    """Gives the seconds after that."""
    lasts: float
    """Gives the seconds for which a node is away, or a cable pulled."""


def faults(runs: int, seed: int, *, cable: bool = True) -> list[Fault]:
    """Returns the plan of faults, in their order."""
    chance = random.Random(f"{runs} {seed}")
    plan = []
    for kind, share in COUNTS.items():
        for _ in range(max(1, round(share * runs))):
            fault = Fault(
                kind, chance.randrange(int(_LAST * runs)), chance.uniform(0, 3), chance.uniform(1, 25)
            )
            plan += [fault] if cable or kind != "cable" else []
    return sorted(plan, key=lambda fault: fault.after)


def write_sweep(out: Path, runs: int) -> None:
    """Writes the files of the sweep; half of its runs have a defense, the seeds are those that are needed."""
    seeds = list(range(runs))
    cut = (runs + 1) // 2
    each = [{"defenses": [], "seed": seed} for seed in seeds[:cut]]
    each += [{"defenses": ["shuffling_vaccine"], "seed": seed} for seed in seeds[cut:]]
    plan = {
        "output_dir": "sweep",
        "config": _RUN,
        "runs": each,
        "retries": 20,
        "resources": {"cpus": 1, "gpus": 0},
    }
    (out / "sweep.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    (out / "teacher.yaml").write_text(yaml.safe_dump(_TEACHER), encoding="utf-8")


_HOOK = """import os, sys
if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    sys.executable = os.environ["ABD_HUB_QUICK_PYTHON"]
"""
"""Lets Ray workers fork the processes of runs from one that has imported torch, which takes seconds."""


class Campaign:
    """Carries out the plan on a running cluster."""

    def __init__(self, out: Path, cluster: Cluster, rows: list[dict[str, Any]]) -> None:
        """Continues in ``out``; ``rows`` are the runs of the sweep."""
        self.out, self.cluster, self.rows = out, cluster, rows
        self.events = out / "events.jsonl"
        self.sweep = out / "sweep"
        self.driver: subprocess.Popen[bytes] | None = None
        self.away: dict[str, float] = {}
        """Maps a node that is away to the moment when it may come back."""
        self.over = False
        self._progress = (-1, time.monotonic())

    def carry_out(self, plan: list[Fault]) -> None:
        """Lets every fault come that has not come yet, and waits for the end of the sweep."""
        come = sum("fault" in event for event in read(self.events))
        for number, fault in enumerate(plan[come:], come):
            while self.finished() < fault.after and not self.over:
                self.look()
            moment = time.monotonic() + fault.delay
            while time.monotonic() < moment and not self.over:
                self.look()
            self.strike(number, fault)
        while not self.over:
            self.look()

    def finished(self) -> int:
        """Counts the runs with a record."""
        return sum((self.sweep / "runs" / row["name"] / "metrics.json").exists() for row in self.rows)

    def look(self) -> None:
        """Starts what should run and does not, and notes the end of the command."""
        for node in NODES:
            joins = node == HEAD or self.cluster.alive(HEAD)
            if joins and time.monotonic() > self.away.get(node, 0) and not self.cluster.alive(node):
                self.cluster.start(node)
                self.note({"event": f"{node} started"})
        if self.driver is None and self.cluster.alive(HEAD):
            self.driver = self.start_sweep()
        code = self.driver.poll() if self.driver else None
        if code is not None:
            self.driver = None
            self.over = code == 0
            self.note({"event": "the command ended", "code": code, "said": self.said()})
        self.check_progress()
        time.sleep(0.2)

    def check_progress(self) -> None:
        """Gives up where no run has ended for ten minutes."""
        count, now = self.finished(), time.monotonic()
        if count != self._progress[0]:
            self._progress = (count, now)
        elif now - self._progress[1] > _STANDSTILL:
            raise RuntimeError(f"{count} runs are finished, and none has ended for {_STANDSTILL:.0f} s")

    def start_sweep(self) -> subprocess.Popen[bytes]:
        """Begins the command of the sweep on the head's machine."""
        words = [sys.executable, "-m", "abd_hub", "sweep", "sweep.yaml", "--json"]
        words += ["--address", self.cluster.network.cluster_address]
        with (self.out / "sweep.out").open("ab") as out, (self.out / "sweep.err").open("ab") as err:
            return subprocess.Popen(
                [*self.cluster.network.inside(HEAD), *words],
                **{"cwd": self.out, "env": self.cluster.environment, "stdout": out, "stderr": err},
                stdin=subprocess.DEVNULL,
            )

    def said(self) -> str:
        """Returns the last line of the command's errors."""
        lines = (self.out / "sweep.err").read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def strike(self, number: int, fault: Fault) -> None:
        """Lets one fault come."""
        struck = "" if self.over else getattr(self, f"strike_{fault.kind}")(random.Random(number), fault)
        self.note({"fault": asdict(fault), "struck": struck or "nothing, which was too late"})

    def strike_worker(self, chance: random.Random, _: Fault) -> str:
        """Kills a Ray worker that carries out a run."""
        for _ in range(300):
            self.look()
            if self.over:
                return ""
            workers = self.cluster.workers()
            if workers:
                ray_nodes.kill([chance.choice(workers)])
                return "a worker"
        return ""

    def strike_node(self, chance: random.Random, fault: Fault) -> str:
        """Takes the power of the node without the head away for a while."""
        self.cluster.kill(WORKER)
        self.away[WORKER] = time.monotonic() + fault.lasts
        return f"all of the node, for {fault.lasts:.0f} s"

    def strike_raylet(self, chance: random.Random, fault: Fault) -> str:
        """Kills only the process that is the node for Ray."""
        ray_nodes.kill(self.cluster.raylets(WORKER))
        self.away[WORKER] = time.monotonic() + fault.lasts
        return f"the node's raylet, for {fault.lasts:.0f} s"

    def strike_head(self, chance: random.Random, fault: Fault) -> str:
        """Stops the head's Ray and starts it later; the command is on the same machine and lives on."""
        self.cluster.stop(HEAD)
        self.away[HEAD] = time.monotonic() + fault.lasts
        return f"the head stopped, for {fault.lasts:.0f} s"

    def strike_driver(self, chance: random.Random, _: Fault) -> str:
        """Kills the command of the sweep, which ``look`` repeats."""
        until(lambda: self.look() or self.driver is not None or self.over, 300)
        if self.driver is None:
            return ""
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        return "the command"

    def strike_cable(self, chance: random.Random, fault: Fault) -> str:
        """Pulls the cable between the nodes for a while."""
        with self.cluster.network.cut():
            end = time.monotonic() + fault.lasts
            while time.monotonic() < end:
                self.look()
        return f"the cable, for {fault.lasts:.0f} s"

    def note(self, event: dict[str, Any]) -> None:
        """Adds a line to the events."""
        whole = {"at": round(time.time(), 1), "finished": self.finished(), **event}
        with self.events.open("a", encoding="utf-8") as log:
            log.write(json.dumps(whole) + "\n")
        print(json.dumps(whole), flush=True)


def read(log: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def prepare(out: Path, runs: int) -> list[dict[str, Any]]:
    """Trains the teacher and lists the runs, where an earlier call has not; returns the rows of the runs."""
    rows = out / "rows.json"
    if not rows.exists():
        write_sweep(out, runs)
        if not (out / "teacher" / "metrics.json").exists():
            words = ["poison", "--config", "teacher.yaml", "--output_dir", "teacher", "--resume", "true"]
            alone(words, out)
        listed = alone(["sweep", "sweep.yaml", "--dry-run", "--json"], out)
        rows.write_text(json.dumps(json.loads(listed)["runs"]), encoding="utf-8")
    found = json.loads(rows.read_text("utf-8"))
    assert len(found) == runs, f"{out} has a sweep of {len(found)} runs; use another --out"
    return found


def alone(words: list[str], out: Path) -> str:
    """Carries out one command without Ray; returns its output."""
    done = forked.run("-m", "abd_hub", *words, cwd=out, environment={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork_runs(out: Path, environment: dict[str, str]) -> None:
    """Adds to the nodes' environment what makes the processes of runs begin at once."""
    (out / "hook").mkdir(exist_ok=True)
    (out / "hook" / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
    environment["ABD_HUB_QUICK_PYTHON"] = quick_python.executable()
    environment["PYTHONPATH"] = os.pathsep.join([str(out / "hook"), environment["PYTHONPATH"]])


def compare(out: Path, rows: list[dict[str, Any]], count: int, seed: int) -> dict[str, list[str]]:
    """Does some of the runs alone; returns the files of each that are others."""
    found = {}
    for row in sorted(random.Random(seed).sample(rows, min(count, len(rows))), key=lambda row: row["name"]):
        name = row["name"]
        if not (out / "alone" / name / "metrics.json").exists():
            words = [
                "--config",
                f"sweep/configs/{name}.yaml",
                "--output_dir",
                f"alone/{name}",
                "--resume",
                "true",
            ]
            alone(["distill", *words], out)
        found[name] = sweep_check.differences(out / "sweep" / "runs" / name, out / "alone" / name)
    return found


def outcome(options: argparse.Namespace, campaign: Campaign, left: list[int]) -> dict[str, Any]:
    """Judges the sweep, and sums the events up."""
    out, rows, events = campaign.out, campaign.rows, read(campaign.events)
    compared = compare(out, rows, options.compared, options.seed)
    wrong = sweep_check.wrong(out / "sweep", rows)
    wrong += [f"{name}: {', '.join(found)}" for name, found in compared.items() if found]
    wrong += [f"process {number} is left" for number in left]
    came = [event for event in events if "fault" in event]
    ends = [event for event in events if event.get("code") not in (None, 0, -signal.SIGKILL)]
    summary = json.loads((out / "sweep" / "summary.json").read_text("utf-8"))["runs"]
    return {
        **{"seed": options.seed, "runs": len(rows), "isolated": campaign.cluster.network.isolated},
        "faults": dict(Counter(e["fault"]["kind"] for e in came if not e["struck"].startswith("nothing"))),
        "ended_by_itself": dict(Counter(event["said"] for event in ends)),
        "attempts": sum(row["attempts"] for row in summary),
        "compared": len(compared),
        "complete": sum(not any(row["name"] in line for line in wrong) for row in rows),
        "same": sum(not found for found in compared.values()),
        "wrong": wrong,
        "minutes": round((events[-1]["at"] - events[0]["at"]) / 60, 1),
    }


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows = prepare(out, options.runs)
    with Network(out, isolated=False if options.loopback else None) as network:
        with Cluster(network, out, options.cores) as cluster:
            if not options.whole_starts:
                fork_runs(out, cluster.environment)
            campaign = Campaign(out, cluster, rows)
            campaign.note({"event": "begins"})
            try:
                campaign.carry_out(faults(options.runs, options.seed, cable=network.isolated))
            finally:
                if campaign.driver:
                    campaign.driver.kill()
                    campaign.driver.wait()
        until(lambda: not ray_nodes.processes_in(out), 60)
        facts = outcome(options, campaign, [n for n in ray_nodes.processes_in(out) if n != os.getpid()])
    (out / "two_nodes.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(table(["fault", "times"], [[kind, str(count)] for kind, count in facts["faults"].items()]))
    print(
        "\n".join(facts["wrong"])
        or f"all {len(rows)} runs are complete, and {facts['compared']} are the same"
    )
    return int(bool(facts["wrong"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="so many runs")
    parser.add_argument("--seed", type=int, default=0, help="decides the faults")
    parser.add_argument("--compared", type=int, default=200, help="so many runs are done again alone")
    parser.add_argument("--cores", type=int, default=2, help="cores that each node offers")
    parser.add_argument("--whole-starts", action="store_true", help="starts a Python for each run")
    parser.add_argument("--loopback", action="store_true", help="makes no network namespaces")
    parser.add_argument("--out", type=Path, default=Path("runs/two-nodes"), help="folder of outcomes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
