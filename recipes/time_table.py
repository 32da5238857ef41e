"""The table of students that had a time in place of a number of rounds, from in_the_time.py."""

from __future__ import annotations

import json
from collections.abc import Iterable

from table_text import RESULTS, table


def time_table() -> str:
    header = ["teacher", "method", "budget", "seed", "minutes", "rounds", "teacher's", "student's", "of it"]
    return table([*header, "agreement on patches"], _rows())


def _rows() -> Iterable[list[str]]:
    for file in sorted((RESULTS / "in_the_time").glob("*.json")):
        record = json.loads(file.read_text())
        teacher, student = (record["results"][who] for who in ("teacher", "student"))
        accuracies = teacher["accuracy"]["value"], student["accuracy"]["value"]
        patches = next(one for one in record["agreement"] if one["images"] == "patches")
        yield [
            file.stem.split(f"_{record['method']}_")[0],
            f"`{record['method']}`",
            record["budget"],
            str(record["seed"]),
            f"{record['seconds'] / 60:.1f}",
            str(record["rounds"]),
            *(f"{found['accuracy']['value']:.3f} / {_asr(found):.3f}" for found in (teacher, student)),
            f"{accuracies[1] / accuracies[0]:.0%}",
            f"{patches['rate']['value']:.2f} ({patches['chance']:.2f} by chance)",
        ]


def _asr(found: dict) -> float:
    value: float = found["triggers"][0]["asr"]["value"]
    return value
