"""The table of strangers' teachers that the quickstart judged, from strangers.py."""

from __future__ import annotations

import json
from collections.abc import Sequence

from table_text import RESULTS, table


def strangers_table() -> str:
    """Returns one row a teacher: what was planted, what the commands found, and what the student does."""
    head = [
        "teacher",
        "data",
        "planted",
        "accuracy / ASR",
        "inspect flags",
        "copy",
        "student",
        "its inspection",
    ]
    files = sorted((RESULTS / "strangers").glob("*.json"))
    return table(head, [_row(json.loads(file.read_text())) for file in files])


def _row(facts: dict) -> list[str]:
    planted = f"{facts['trigger']} to {facts['target']}" if facts["trigger"] else "-"
    return [
        f"{facts['architecture']} ({facts['library']})",
        facts["data"],
        planted,
        _rates(facts["teacher"]),
        _classes(facts["inspection"]["suspects"]),
        "purified" if facts["purified"] else "-",
        _rates(facts["student"]),
        _classes(facts["student_suspects"]),
    ]


def _classes(suspects: Sequence[int] | None) -> str:
    """Names the classes that an inspection flags; "-" where there was none."""
    if suspects is None:
        return "-"
    return ", ".join(f"class {label}" for label in suspects) or "none"


def _rates(found: dict) -> str:
    return f"{found['accuracy']:.3f}" + (f" / {found['asr']:.3f}" if found["asr"] is not None else "")
