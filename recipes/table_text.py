"""The folder of the results, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    first, *others = ["| " + " | ".join(line) + " |" for line in [header, *rows]]
    return "\n".join([first, "|---" * len(header) + "|", *others])
