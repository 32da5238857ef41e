"""The table of poisoned teachers of our own that were inspected and purified, from purify_teachers.py."""

from __future__ import annotations

import json
from collections.abc import Iterable

from purification_tables import inspected_sizes, inspection_cell, target_of
from table_text import RESULTS, table


def own_teachers_table() -> str:
    """One row a teacher and seed; a copy stands only where something was unlearned."""
    head = ["attack", "to", "seed", "flagged", "joint ratio", "accuracy / ASR", "of the copy"]
    rows = list(_rows())
    return table(head, rows) if rows else "(No result yet.)"


def _rows() -> Iterable[list[str]]:
    for file in sorted((RESULTS / "purification_own").glob("*.json")):
        record = json.loads(file.read_text())
        report = record["report"]
        found = report["inspected"]
        flagged = ", ".join(f"class {label}" for label in found["suspects"]) or "none"
        name = record["teacher"].removeprefix("cifar10_")
        yield [
            name,
            target_of(record),
            str(record["seed"]),
            flagged,
            inspection_cell(inspected_sizes(found)["joint"]),
            _rates(record["before"]),
            _rates(record["after"]) if report["changed"] else "(left alone)",
        ]


def _rates(found: dict) -> str:
    return f"{found['accuracy']:.3f} / {found['asr']:.3f}"
