"""Kill every command of abd-hub that writes, take the disk from it, and judge what is left.

    python recipes/faults.py --trials 3 --seed 0 --out runs/faults

A trial lets one command meet one fault at a moment that follows from the seed, and then carries out the same
command again. It is wrong where a file is lost or half-written, where an error is not one line, and where the
results are not those of an unbroken run to the bit. OUT/trials.jsonl holds the outcome of every trial. A
second call continues there, and repeats what was wrong. OUT/faults.json and the table sum them up. --only
COMMAND:FAULT:NUMBER carries out one trial again, and leaves its folder in OUT/work. A full disk is a mount,
which takes the rights of root.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table_text import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from fault_scenes import SCENES
from fault_trials import FAULTS, ON_DISK, Bench, Outcome, trial

LONG = ("sweep", "demo")
"""Commands that take a minute; they get a third of the trials."""


def main() -> int:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "trials.jsonl"
    with Bench(options.out, options.seed) as bench:
        if options.only:
            command, fault, number = options.only.split(":")
            found = trial(bench, command, fault, int(number))
            print(json.dumps(asdict(found), indent=1))
            return int(bool(found.why))
        for outcome in campaign(options, log, bench):
            print(f"{outcome.scene}:{outcome.fault}:{outcome.number} {outcome.why or 'survived'}", flush=True)
    return summary(log, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3, help="trials of each command with each fault")
    parser.add_argument("--seed", type=int, default=0, help="decides the moment of every fault")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of outcomes")
    parser.add_argument("--commands", nargs="+", choices=SCENES, default=list(SCENES), metavar="COMMAND")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--only", metavar="COMMAND:FAULT:NUMBER", help="carries out this one trial again")
    return parser.parse_args()


def jobs_of(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Every trial of the campaign: first one of each command with each fault."""
    jobs = []
    for command in options.commands:
        count = max(1, options.trials // 3) if command in LONG else options.trials
        for fault in options.faults:
            if SCENES[command].repository and fault in ON_DISK:
                continue  # a push writes to temporary folders only
            if fault not in (SCENES[command].faults or FAULTS):
                continue
            jobs += [(command, fault, number) for number in range(count)]
    return sorted(jobs, key=lambda job: job[2])


def campaign(options: argparse.Namespace, log: Path, bench: Bench) -> Iterator[Outcome]:
    """Yields the outcomes of the trials that the log lacks, and writes them there."""
    done = {(row["scene"], row["fault"], row["number"]) for row in rows_of(log) if not row["why"]}
    with log.open("a", encoding="utf-8") as stream:
        for job in jobs_of(options):
            if job in done:
                continue
            outcome = trial(bench, *job)
            stream.write(json.dumps(asdict(outcome)) + "\n")
            stream.flush()
            yield outcome


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The last outcome of each trial."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    return list({(row["scene"], row["fault"], row["number"]): row for row in rows}.values())


def summary(log: Path, options: argparse.Namespace) -> int:
    """Writes OUT/faults.json, prints a table, and returns 1 where a trial was wrong."""
    rows = rows_of(log)
    facts = {"seed": options.seed, "trials": rows}
    (options.out / "faults.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    cells = []
    for scene in dict.fromkeys(row["scene"] for row in rows):
        own = [row for row in rows if row["scene"] == scene]
        wrong = sum(bool(row["why"]) for row in own)
        cells.append([scene, str(len(own)), str(len(own) - wrong), str(wrong)])
    print(table(["command", "trials", "survived", "wrong"], cells))
    return int(any(row["why"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
