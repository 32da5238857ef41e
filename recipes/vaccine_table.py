"""The table of the results of vaccine_survival.py."""

from __future__ import annotations

import json
from statistics import mean

from table_text import RESULTS, table

SHOWN = (0.0, 0.05, 0.08, 0.12, 0.3)
ACCEPTED = 0.02
"""The vaccine's check accepts a draw that sets a larger share apart."""


def vaccine_table() -> str:
    """One row a teacher and number of shuffled layers."""
    records = [json.loads(file.read_text()) for file in sorted((RESULTS / "vaccine").glob("*.json"))]
    head = ["teacher", "layers", "clean images that survive", "triggered ones", "draws with most of these"]
    head += [f"set apart, {share:.0%} triggered" for share in SHOWN]
    rows = [survival_row(record, row) for record in records for row in record["rows"]]
    return table(head, rows) if rows else "(No result yet.)"


def survival_row(record: dict, row: dict) -> list[str]:
    draws = row["draws"]
    shares = [f"{mean(draw[kind] for draw in draws):.2f}" for kind in ("clean", "triggered")]
    most = sum(draw["triggered"] > 0.5 for draw in draws)
    places = [record["shares"].index(share) for share in SHOWN]
    checks = [check_cell([draw["set_apart"][place] for draw in draws]) for place in places]
    return [record["teacher"], str(row["layers"]), *shares, f"{most} of {len(draws)}", *checks]


def check_cell(apart: list[float]) -> str:
    """The largest share of all draws, and how many draws the check accepts."""
    return f"{max(apart):.1%} ({sum(share > ACCEPTED for share in apart)})"
