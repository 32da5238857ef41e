"""Push and pull through random sequences of faults of a Hub, and judge what is left each time.

    pip install --target oldest "huggingface-hub==1.33.*"
    python recipes/hub_faults.py --times 500 --out runs/hub-newest
    python recipes/hub_faults.py --times 500 --out runs/hub-oldest --client oldest

The Hub is a real HTTP server on this machine. Its faults are refusals, cut and lost answers, damaged bytes,
redirects to another host, old lists, wrong and missing hashes, and somebody else's commit. A push or a pull
is wrong where the repository or the cache is half, where an error is not one line, where a token is seen, and
where the same command without faults does not end well. OUT/times.jsonl holds the outcome of every one. A
second call continues there, and repeats what was wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table_text import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from hub_campaign import TOKENS, Campaign, Outcome, campaign

ASK = "import huggingface_hub; print(huggingface_hub.__version__)"


def main() -> int:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "times.jsonl"
    client = str(options.client.resolve()) if options.client else ""
    with campaign(options.out / "work", options.seed, client) as hub:
        for outcome in outcomes(options, log, hub):
            if outcome.why:
                print(f"{outcome.kind}:{outcome.number} {outcome.why} after {outcome.faults}", flush=True)
    shown = [token for token in TOKENS if token.decode() in hub.said] + ["Traceback"] * (
        "Traceback" in hub.said
    )
    if shown:
        print("the log of the process holds a token or a traceback")
    return summary(log, options, client) or int(bool(shown))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=500, help="so many pushes, and so many pulls")
    parser.add_argument("--seed", type=int, default=0, help="decides every fault")
    parser.add_argument("--out", type=Path, default=Path("runs/hub-faults"), help="folder of outcomes")
    parser.add_argument("--client", type=Path, help="folder with another huggingface_hub")
    return parser.parse_args()


def outcomes(options: argparse.Namespace, log: Path, hub: Campaign) -> Iterator[Outcome]:
    """Yields the outcomes that the log lacks, and writes them there."""
    done = {(row["kind"], row["number"]) for row in rows_of(log) if not row["why"]}
    with log.open("a", encoding="utf-8") as stream:
        for number in range(options.times):
            for kind, carry_out in (("push", hub.push), ("pull", hub.pull)):
                if (kind, number) in done:
                    continue
                outcome = carry_out(number)
                stream.write(json.dumps(asdict(outcome)) + "\n")
                stream.flush()
                yield outcome


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The last outcome of each push and pull."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    return list({(row["kind"], row["number"]): row for row in rows}.values())


def summary(log: Path, options: argparse.Namespace, client: str) -> int:
    """Writes OUT/hub.json, prints a table, and returns 1 where a push or a pull was wrong."""
    rows = rows_of(log)
    found = [counts(kind, [row for row in rows if row["kind"] == kind]) for kind in ("push", "pull")]
    facts = {"seed": options.seed, "huggingface_hub": version(client), "results": found}
    (options.out / "hub.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    words = ["times", "faults", "well", "refused", "wrong"]
    print(table(["kind", *words], [[row["kind"], *(f"{row[word]:,}" for word in words)] for row in found]))
    return int(any(row["wrong"] for row in found))


def counts(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many ended in each way, and how many faults of each kind were planted."""
    ended = Counter(row["ended"] for row in rows)
    faults = Counter(fault_kind(text) for row in rows for text in row["faults"])
    return {
        "kind": kind,
        "times": len(rows),
        "faults": faults.total(),
        "well": ended["well"],
        "refused": ended["refused"],
        "wrong": sum(bool(row["why"]) for row in rows),
        "by fault": dict(sorted(faults.items())),
    }


def fault_kind(text: str) -> str:
    """The kind of a planted fault: "redirect", "status", or its first word."""
    first, second, *_ = text.split()
    if second.isdecimal():
        return "redirect" if second.startswith("3") else "status"
    return first


def version(client: str) -> str:
    """The version of the client that pushed and pulled."""
    path = {"PYTHONPATH": client} if client else {}
    done = subprocess.run([sys.executable, "-c", ASK], env=path, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
