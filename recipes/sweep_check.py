"""Judges the folder of a finished sweep: each run is there once, whole, and as it is without any fault."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import fault_files
import yaml

EXPECTED = {"config.yaml", "configs", "logs", "results", "results.md", "results.png", "runs", "summary.json"}
_ALONE = re.compile(r"(?m)^output_dir: .*$")
"""A run done alone has another output folder, which its configuration names."""


def wrong(sweep: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for everything that is not as it should be.

    Args:
        sweep: the folder of the sweep.
        rows: the rows of ``abd-hub sweep --dry-run --json`` from before the first run.
    """
    names = [row["name"] for row in rows]
    found = [f"{name} is in the folder" for name in sorted(_names(sweep) - EXPECTED)]
    found += [f"{path} is left over" for path in left_over(sweep)]
    found += fault_files.broken(sweep)
    for folder, suffix in (("runs", ""), ("configs", ".yaml"), ("logs", ".log"), ("results", ".json")):
        there, wanted = _names(sweep / folder), {name + suffix for name in names}
        found += [f"{folder}/{name} is missing" for name in sorted(wanted - there)]
        found += [f"{folder}/{name} is one too many" for name in sorted(there - wanted)]
    for row in rows:
        found += [f"{row['name']}: {fault}" for fault in _run_faults(sweep, row)]
    return found + _table_faults(sweep, rows)


def left_over(folder: Path) -> list[str]:
    """Returns temporary files, locks and requests to stop."""
    return fault_files.leftovers(folder)


def _names(folder: Path) -> set[str]:
    hidden = fault_files.TEMPORARY
    return (
        {path.name for path in folder.iterdir() if not hidden.match(path.name)} if folder.is_dir() else set()
    )


def _run_faults(sweep: Path, row: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with one run; its rounds are counted from 1 without a gap."""
    folder, result = sweep / "runs" / row["name"], sweep / "results" / f"{row['name']}.json"
    try:
        record = json.loads((folder / "metrics.json").read_text("utf-8"))
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
        copied = result.read_bytes() == (folder / "metrics.json").read_bytes()
    except (OSError, ValueError) as error:
        return [f"cannot be read ({type(error).__name__})"]
    found = [] if copied else ["results has another record"]
    if record["seed"] != row["seed"]:
        found.append(f"has seed {record['seed']}")
    counted = sorted({line["round"] for line in log if "round" in line})
    if counted != list(range(1, record["rounds"] + 1)):
        found.append(f"its log has the rounds {counted}")
    return found


def _table_faults(sweep: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the runs that summary and table do not name once, as done."""
    try:
        summary = json.loads((sweep / "summary.json").read_text("utf-8"))["runs"]
        table = (sweep / "results.md").read_text("utf-8")
    except (OSError, ValueError) as error:
        return [f"the tables cannot be read ({type(error).__name__})"]
    done = sorted(row["name"] for row in summary if row["state"] == "done")
    found = (
        [] if done == sorted(row["name"] for row in rows) else ["summary.json does not name each run once"]
    )
    if f"{len(rows)} of {len(rows)} runs are finished." not in table:
        found.append("results.md does not count all runs")
    if _seeds_in(table) != sorted(row["seed"] for row in rows):
        found.append("results.md does not list each seed once")
    return found


def _seeds_in(table: str) -> list[int]:
    """Returns the seeds of all rows."""
    lines = [
        [cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    if not lines or "seeds" not in lines[0]:
        return []
    place = lines[0].index("seeds")
    return sorted(
        int(seed) for line in lines[2:] for seed in line[place].split(",") if seed.strip().isdigit()
    )


def results_of(run: Path) -> dict[str, str]:
    """Returns a hash of each file of a run, but for times and the name of its folder."""
    found = fault_files.results(run)
    text = _ALONE.sub("", (run / "config.yaml").read_text("utf-8"))
    return found | {
        "config.yaml": fault_files.digest("config.yaml", json.dumps(yaml.safe_load(text)).encode())
    }


def differences(run: Path, alone: Path) -> list[str]:
    """Returns the files of a run that differ from the same run done alone."""
    return fault_files.differences(results_of(run), results_of(alone))
