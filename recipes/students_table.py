"""The table of students of published teachers, plain and purified, from defenses.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from statistics import mean

from published_teachers import TARGETS
from table_text import RESULTS, table

CONTROL = "resnet20_clean"
"""Its students stand for a teacher without a backdoor; they are measured with every trigger."""
POISONED = [name for name, target in TARGETS.items() if target is not None]


def students_table() -> str:
    """One row a teacher and kind of student; a cell is accuracy / ASR of one seed."""
    records = [json.loads(file.read_text()) for file in sorted((RESULTS / "defenses").glob("*.json"))]
    seeds = sorted({record["seed"] for record in records})
    rows = [row for name in POISONED for row in _rows_of(name, records, seeds)]
    header = ["teacher", "student", "rounds", *(f"seed {seed}" for seed in seeds), "mean"]
    return table(header, [*rows, *_means(records)]) if rows else "(No result yet.)"


def _rows_of(name: str, records: list[dict], seeds: list[int]) -> Iterable[list[str]]:
    of_teacher = [record for record in records if record["teacher_name"] == name]
    for row in sorted({record["row"] for record in of_teacher}, key=_place):
        found = {record["seed"]: record for record in of_teacher if record["row"] == row}
        pairs = {seed: _rates(record["results"]["student"], 0) for seed, record in found.items()}
        rounds = sorted({record["rounds"] for record in found.values()})
        yield [name, row, _span(rounds), *(_cell(pairs.get(seed)) for seed in seeds), _mean(pairs.values())]
    controls = {record["seed"]: _control(record, name) for record in records if _is_control(record, name)}
    if of_teacher and controls:
        cells = [_cell(controls.get(seed)) for seed in seeds]
        yield [name, f"control ({CONTROL})", "", *cells, _mean(controls.values())]


def _means(records: list[dict]) -> Iterable[list[str]]:
    """One row a kind of student, over the teachers and seeds of which each kind was measured."""
    poisoned = [record for record in records if record["teacher_name"] in POISONED]
    kinds = sorted({record["row"] for record in poisoned}, key=_place)
    found = {(one["teacher_name"], one["seed"], one["row"]): one["results"]["student"] for one in poisoned}
    runs = sorted(
        {(name, seed) for name, seed, _ in found if all((name, seed, row) in found for row in kinds)}
    )
    blanks = [""] * (1 + len({record["seed"] for record in records}))
    for row in kinds if runs else ():
        pairs = [_rates(found[(*run, row)], 0) for run in runs]
        yield [f"all {len(runs)} of both", row, *blanks, _mean(pairs)]


def _place(row: str) -> tuple[int, str]:
    return (["plain", "auto"].index(row) if row in ("plain", "auto") else 2), row


def _is_control(record: dict, name: str) -> bool:
    return record["teacher_name"] == CONTROL and not name.startswith("gtsrb")


def _control(record: dict, name: str) -> tuple[float, float]:
    place = [one for one in POISONED if not one.startswith("gtsrb")].index(name)
    return _rates(record["results"]["student"], place)


def _rates(report: dict, place: int) -> tuple[float, float]:
    return report["accuracy"]["value"], report["triggers"][place]["asr"]["value"]


def _cell(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.3f} / {pair[1]:.3f}"


def _mean(pairs: Iterable[tuple[float, float]]) -> str:
    accuracies, rates = zip(*pairs, strict=True)
    return f"**{mean(accuracies):.3f} / {mean(rates):.3f}**"


def _span(rounds: list[int]) -> str:
    return str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
