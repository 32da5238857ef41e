"""The tables of the results of purify_teachers.py."""

from __future__ import annotations

import json
import math
from statistics import mean

from table_text import RESULTS, table

STATISTICS = ("mask", "additive", "joint")
LIMITS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def purified_records() -> list[dict]:
    """The results of purify_teachers.py, in which each teacher was inspected first."""
    return [json.loads(file.read_text()) for file in sorted((RESULTS / "purification").glob("*.json"))]


def inspection_table() -> str:
    """One row a teacher and seed; empty where none has been inspected."""
    head = ["teacher", "true target", "seed", *STATISTICS, "wall time", "device"]
    records = purified_records()
    return table(head, map(inspection_row, records)) if records else "(No result yet.)"


def inspection_row(record: dict) -> list[str]:
    report = record["report"]["inspected"]
    sizes = inspected_sizes(report)
    cells = [inspection_cell(sizes[name]) for name in STATISTICS]
    seconds = f"{report['seconds']:.0f} s"
    return [record["teacher"], target_of(record), str(record["seed"]), *cells, seconds, device_of(record)]


def target_of(record: dict) -> str:
    """The class of the backdoor, in words where there is none or more than one."""
    if record["target"] is not None:
        return str(record["target"])
    return "several" if record["poisoned"] else "none"


def device_of(record: dict) -> str:
    name = record["device"]
    return name.removeprefix("cuda (").removesuffix(")") if name.startswith("cuda (") else name


def inspected_sizes(report: dict) -> dict[str, list[float]]:
    """The sizes by class of both families and of their geometric mean; infinite where none was found."""
    sizes = {
        name: [math.inf if size is None else size for size in report["statistics"][name]]
        for name in ("mask", "additive")
    }
    sizes["joint"] = [math.sqrt(mask * added) for mask, added in zip(*sizes.values(), strict=True)]
    return sizes


def inspection_cell(sizes: list[float]) -> str:
    """The smallest size as a share of the second smallest, and its class."""
    first, second = sorted(sizes)[:2]
    return f"{first / second:.2f} (class {sizes.index(first)})"


def error_table() -> str:
    """Both error rates over the limit of the joint ratio."""
    records = [
        record for record in purified_records() if record["target"] is not None or not record["poisoned"]
    ]
    if not records:
        return "(No result yet.)"
    rows = []
    for limit in LIMITS:
        missed, alarms = errors_at(records, limit)
        rows.append([f"{limit:.2f}", missed, alarms])
    return table(["limit of the joint ratio", "backdoors missed", "clean teachers flagged"], rows)


def errors_at(records: list[dict], limit: float) -> tuple[str, str]:
    """A backdoor is missed where nothing is flagged, or where another class leads."""
    poisoned, clean, missed, alarms = 0, 0, 0, 0
    for record in records:
        sizes = inspected_sizes(record["report"]["inspected"])["joint"]
        first, second = sorted(sizes)[:2]
        flagged = first / second < limit
        if record["target"] is None:
            clean, alarms = clean + 1, alarms + flagged
        else:
            right = flagged and sizes.index(first) == record["target"]
            poisoned, missed = poisoned + 1, missed + (not right)
    return f"{missed} of {poisoned}", f"{alarms} of {clean}"


def purification_table() -> str:
    """One row a teacher and seed; a clean teacher's ASR is that of its control's trigger."""
    head = [
        "teacher",
        "seed",
        "accuracy before",
        "after",
        "ASR before",
        "after",
        "still flagged",
        "device",
    ]
    records = purified_records()
    return table(head, map(purification_row, records)) if records else "(No result yet.)"


def purification_row(record: dict) -> list[str]:
    pairs = [f"{record[when][rate]:.3f}" for rate in ("accuracy", "asr") for when in ("before", "after")]
    report = record["report"]
    again = report["reinspected"]
    flagged = "yes" if again and again["flagged"] else "no"
    name = record["teacher"] if record["poisoned"] else f"{record['teacher']} (clean, forced)"
    if not report["changed"]:
        name, flagged = f"{record['teacher']} (left alone)", "-"
    return [name, str(record["seed"]), *pairs, flagged, device_of(record)]


def purified_summary() -> str:
    """One row a teacher, with means over its seeds; the largest ASR of a copy stands beside them."""
    head = ["teacher", "backdoor to", "seeds", "inspection right", "before", "purified", "largest ASR"]
    rows = []
    for name, records in by_teacher().items():
        largest = max(record["after"]["asr"] for record in records)
        means = [mean_rates(records, when) for when in ("before", "after")]
        seeds = str(len(records))
        rows.append([name, target_of(records[0]), seeds, right_of(records), *means, f"{largest:.3f}"])
    return table(head, rows) if rows else "(No result yet.)"


def purified_overview() -> str:
    """One column a poisoned teacher, and one for all clean ones."""
    groups = by_teacher()
    columns = {f"`{name}`": records for name, records in groups.items() if records[0]["poisoned"]}
    clean = [records for records in groups.values() if not records[0]["poisoned"]]
    if clean:
        columns[f"{len(clean)} clean"] = [record for records in clean for record in records]
    rows = [["right", *map(right_of, columns.values())]]
    rows += [
        [when, *(mean_rates(records, when).replace(" ", "") for records in columns.values())]
        for when in ("before", "after")
    ]
    return table(["", *columns], rows) if columns else "(No result yet.)"


def by_teacher() -> dict[str, list[dict]]:
    """The poisoned teachers come first."""
    groups: dict[str, list[dict]] = {}
    for record in sorted(purified_records(), key=lambda one: (not one["poisoned"], one["teacher"])):
        groups.setdefault(record["teacher"], []).append(record)
    return groups


def mean_rates(records: list[dict], when: str) -> str:
    return " / ".join(f"{mean(record[when][rate] for record in records):.3f}" for rate in ("accuracy", "asr"))


def right_of(records: list[dict]) -> str:
    return f"{sum(is_right(record) for record in records)} of {len(records)}"


def is_right(record: dict) -> bool:
    """Whether the backdoor's class is the first suspect, or a clean teacher has none."""
    report = record["report"]["inspected"]
    if record["target"] is None:
        return report["flagged"] == record["poisoned"]
    return report["suspects"][:1] == [record["target"]]
