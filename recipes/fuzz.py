"""Give abd-hub thousands of hostile inputs of every kind that it reads, and judge how it takes each.

    python recipes/fuzz.py --inputs 20000 --seed 0 --out runs/fuzz

An input counts as wrong where abd-hub neither works nor refuses it in one line. It also counts as wrong where
abd-hub starts a program, opens a file elsewhere, reaches for the network, or takes more than 3 GiB or 60
seconds. OUT/inputs.jsonl holds the outcome of every input. A second call continues there, and repeats what
was wrong. OUT/fuzz.json and the table sum them up, and OUT/wrong keeps the inputs that count as wrong. --only
KIND:NUMBER makes and reads one input again. --processes N runs N commands instead, with their system calls
traced by strace.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table_text import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import fuzz_oracle
from fuzz_kinds import KINDS, make_examples, preload
from fuzz_oracle import Outcome

AT_ONCE = 500
"""Inputs of one forked process; its folder is made anew for each."""


def main() -> int:
    options = arguments()
    out: Path = options.out.resolve()
    examples, work = out / "examples", out / "work"
    if not (examples / "outside").exists():
        shutil.rmtree(examples, ignore_errors=True)
        examples.mkdir(parents=True)
        fuzz_oracle.forked(make_examples, examples)
    preload(examples.resolve())
    if options.only:
        name, _, number = options.only.partition(":")
        (found,) = fuzz_oracle.read_inputs([(name, int(number))], options.seed, examples, work)
        print(json.dumps(asdict(found), indent=1), f"\nthe input is in {work}")
        return int(found.outcome == "wrong")

    log = out / "inputs.jsonl"
    if not options.processes:
        for outcome in campaign(options, log, examples, work):
            keep(outcome, options.seed, out, work)
    else:
        for outcome in traced(options, examples, work):
            keep(outcome, options.seed, out, work)
    return summary(log, out, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="decides every input")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder of outcomes and findings")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="makes and reads this one input")
    parser.add_argument("--processes", type=int, default=0, help="commands to trace with strace instead")
    return parser.parse_args()


def jobs_of(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Every input of the campaign, the kinds mixed so that the time left is known early."""
    kinds = options.kinds or list(KINDS)
    shares = {name: KINDS[name].share for name in kinds}
    whole = sum(shares.values())
    counts = {name: max(1, round(options.inputs * share / whole)) for name, share in shares.items()}
    jobs = [(name, number) for name, count in counts.items() for number in range(count)]
    return sorted(jobs, key=lambda job: (job[1] + 0.5) / counts[job[0]])


def campaign(options: argparse.Namespace, log: Path, examples: Path, work: Path) -> Iterator[Outcome]:
    """Yields the outcomes of the inputs that the log lacks, and writes them there."""
    done = {(row["key"], row["number"]) for row in rows_of(log) if row["outcome"] != "wrong"}
    jobs = [job for job in jobs_of(options) if job not in done]
    began, wrong = time.monotonic(), 0
    with log.open("a", encoding="utf-8") as stream:
        for start in range(0, len(jobs), AT_ONCE):
            batch = jobs[start : start + AT_ONCE]
            read = fuzz_oracle.read_inputs(batch, options.seed, examples, work)
            for (name, _), outcome in zip(batch, read, strict=True):
                stream.write(json.dumps({"key": name, "seed": options.seed, **asdict(outcome)}) + "\n")
                wrong += outcome.outcome == "wrong"
                yield outcome
            stream.flush()
            ready = start + len(batch)
            left = (time.monotonic() - began) / ready * (len(jobs) - ready) / 60
            print(f"{ready:,} of {len(jobs):,} inputs, {wrong} wrong, {left:.1f} minutes left", flush=True)


def traced(options: argparse.Namespace, examples: Path, work: Path) -> Iterator[Outcome]:
    """Yields the outcomes of whole commands, the kinds in turn."""
    import fuzz_processes

    names = [name for name in fuzz_processes.COMMANDS if name in (options.kinds or KINDS)]
    turns = ((name, number) for number in itertools.count() for name in names)
    log = options.out.resolve() / "inputs.jsonl"
    for place, (name, number) in enumerate(itertools.islice(turns, options.processes), 1):
        outcome = fuzz_processes.trace(name, number, options.seed, examples, work)
        with log.open("a", encoding="utf-8") as stream:
            key = f"traced {name}"
            stream.write(json.dumps({"key": key, "seed": options.seed, **asdict(outcome)}) + "\n")
        print(
            f"{place} of {options.processes} commands: {outcome.kind} {number} {outcome.outcome}", flush=True
        )
        yield outcome


def keep(outcome: Outcome, seed: int, out: Path, work: Path) -> None:
    """Keeps an input that counts as wrong, with what is wrong."""
    if outcome.outcome != "wrong":
        return
    name = outcome.kind.partition(",")[0].replace(" ", "_")
    print(f"  {name}:{outcome.number} {outcome.why}", flush=True)
    place = out / "wrong" / f"{name}-{outcome.number}"
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(Exception):  # where it cannot be made, its outcome says so
        fuzz_oracle.write_input(KINDS[name], outcome.number, seed, out / "examples", place)
    (place / "why.json").write_text(json.dumps(asdict(outcome), indent=1) + "\n")


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The last outcome of each input."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    return list({(row["key"], row["number"]): row for row in rows}.values())


def summary(log: Path, out: Path, options: argparse.Namespace) -> int:
    """Writes OUT/fuzz.json, prints a table, and returns 1 where an input counts as wrong."""
    rows = rows_of(log)
    kinds = []
    for name in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == name]
        counts = {word: sum(row["outcome"] == word for row in own) for word in ("works", "refused", "wrong")}
        most = {"seconds": max(row["seconds"] for row in own), "bytes": max(row["bytes"] for row in own)}
        kinds.append({"kind": name, "inputs": len(own), **counts, **most})
    facts = {"seed": options.seed, "inputs": len(rows), "kinds": kinds}
    (out / "fuzz.json").write_text(json.dumps(facts, indent=1) + "\n")
    words = ["inputs", "works", "refused", "wrong"]
    lines = [[row["kind"], *(f"{row[word]:,}" for word in words), *_most(row)] for row in kinds]
    total = [f"{sum(row[word] for row in kinds):,}" for word in words]
    lines.append(
        [
            "all",
            *total,
            *_most({name: max((row[name] for row in kinds), default=0) for name in ("seconds", "bytes")}),
        ]
    )
    print(table(["kind", *words, "longest", "most memory"], lines))
    return int(any(row["wrong"] for row in kinds))


def _most(row: dict[str, Any]) -> list[str]:
    return [f"{row['seconds']:.1f} s", f"{row['bytes'] / 2**30:.2f} GiB"]


if __name__ == "__main__":
    sys.exit(main())
