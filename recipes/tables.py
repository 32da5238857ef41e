"""Writes the tables of the documents from the JSON files under recipes/results.

    python recipes/tables.py [--check]

A table stands between two marks of its document, ``<!-- NAME table -->`` and ``<!-- end of NAME table -->``.
``--check`` writes nothing and exits with code 1 where a document differs from the results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from statistics import mean

from fault_tables import faults_table, hub_faults_table, page_table, two_nodes_table
from own_teachers_table import own_teachers_table
from purification_tables import (
    error_table,
    inspection_table,
    purification_table,
    purified_overview,
    purified_summary,
)
from stranger_table import strangers_table
from students_table import students_table
from table_text import RESULTS, table
from time_table import time_table
from vaccine_table import vaccine_table

ROOT = RESULTS.parents[1]


def demo_table(folder: str) -> str:
    runs = [json.loads(file.read_text()) for file in sorted((RESULTS / folder).glob("seed*.json"))]
    models = [{"teacher": run["teacher"], **run["students"]} for run in runs]
    rows = []
    for name in models[0]:
        each = [f"{found[name]['accuracy']:.3f} / {found[name]['asr']:.3f}" for found in models]
        means = [mean(found[name][kind] for found in models) for kind in ("accuracy", "asr")]
        rows.append([name, *each, f"**{means[0]:.3f} / {means[1]:.3f}**"])
    header = ["accuracy / ASR", *[f"seed {index}" for index in range(len(runs))], "mean"]
    return table(header, rows)


def rate(found: dict) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def ibau_rows() -> Iterable[list[str]]:
    for file in sorted((RESULTS / "ibau").glob("*.json"), reverse=True):
        record = json.loads(file.read_text())
        defenses = ", ".join(d["name"] + ("" if d["active"] else " (not active)") for d in record["defenses"])
        cost = f"{record['rounds']} rounds, {record['durations']['distillation'] / 60:.0f} min on one core"
        if not defenses:
            yield ["teacher", "", *measured(record["results"]["teacher"]), ""]
        yield [file.stem, defenses or "none", *measured(record["results"]["student"]), cost]


def measured(report: dict) -> list[str]:
    attack = report["triggers"][0]
    return [rate(report["accuracy"]), rate(attack["asr"]), rate(attack["robust_accuracy"])]


def ibau_table() -> str:
    return table(["model", "defenses", "accuracy", "ASR", "robust accuracy", "cost"], ibau_rows())


def zoo_rows() -> Iterable[list[str]]:
    records = [json.loads(file.read_text()) for file in (RESULTS / "zoo").glob("*.json")]
    for record in sorted(records, key=zoo_place):
        poison, attacks = record["poison"], record["report"]["triggers"]
        trigger = f"{poison['trigger']} to {poison['target']}" if poison else "none"
        rates = [rate(attacks[0]["asr"]), rate(attacks[0]["control"])] if attacks else ["", ""]
        cost = f"{record['durations']['training'] / 60:.0f} min"
        data, epochs = record["training_data"]["id"], str(record["recipe"]["epochs"])
        yield [data, epochs, trigger, rate(record["report"]["accuracy"]), *rates, cost]


def zoo_place(record: dict) -> tuple:
    """Sorts by data set and length; the clean teacher comes first."""
    poison = record["poison"] or {"trigger": ""}
    return record["training_data"]["id"], record["recipe"]["epochs"], poison["trigger"]


def zoo_table() -> str:
    head = ["data", "epochs", "trigger", "accuracy", "ASR", "ASR of the clean teacher", "training"]
    return table(head, zoo_rows())


def methods_table(data: str) -> str:
    head = ["method", "defenses", "accuracy", "ASR", "ASR of the control", "rounds", "core minutes"]
    files = sorted((RESULTS / "methods" / data).glob("*.json"))
    records = [json.loads(file.read_text()) for file in files]
    if not records:
        return ""
    teacher = records[0]["results"]["teacher"]
    first = ["teacher", "", *method_rates(teacher), "", ""]
    return table(head, [first, *[method_row(record) for record in sorted(records, key=method_place)]])


def method_row(record: dict) -> list[str]:
    defenses = ", ".join(d["name"] + ("" if d["active"] else " (not active)") for d in record["defenses"])
    minutes = f"{record['durations']['distillation_processor'] / 60:.1f}"
    rates = method_rates(record["results"]["student"])
    return [record["method"], defenses or "none", *rates, str(record["rounds"]), minutes]


def method_rates(report: dict) -> list[str]:
    attack = report["triggers"][0]
    return [rate(report["accuracy"]), rate(attack["asr"]), rate(attack["control"])]


def method_place(record: dict) -> tuple:
    """Sorts the controls first, then by year of the paper; plain comes before defended."""
    order = ["real", "ood", "zskt", "dafl", "dfad", "dfq", "deepinversion", "cmi", "fast"]
    return order.index(record["method"]), len(record["defenses"])


def summary_table() -> str:
    """Returns plain and defended side by side: the long run, and methods that learned in ten core minutes."""
    head = ["data", "method", "plain", "ABD", "vaccine's check"]
    long = [RESULTS / "ibau" / f"badnets_8_{kind}.json" for kind in ("plain", "abd")]
    rows = [summary_row("cifar10, long run", *[json.loads(file.read_text()) for file in long])]
    for data in ("cifar10", "gtsrb"):
        rows += [summary_row(data, *pair) for pair in method_pairs(data) if has_learned(*pair)]
    return table(head, rows)


def method_pairs(data: str) -> Iterable[tuple[dict, dict]]:
    """Yields the records of each method, plain and with ABD."""
    folder = RESULTS / "methods" / data
    plain = [json.loads(file.read_text()) for file in folder.glob("*_plain.json")]
    for record in sorted(plain, key=method_place):
        yield record, json.loads((folder / f"{record['method']}_abd.json").read_text())


def has_learned(plain: dict, _: dict) -> bool:
    """Returns whether a data-free method's plain student is right on more than a third of the images."""
    return plain["method"] != "real" and plain["results"]["student"]["accuracy"]["value"] > 1 / 3


def summary_row(data: str, plain: dict, defended: dict) -> list[str]:
    rates = [short_rates(record["results"]["student"]) for record in (plain, defended)]
    vaccine = next(found for found in defended["defenses"] if found["name"] == "shuffling_vaccine")
    check = "passed" if vaccine["active"] else "refused"
    return [data, f"`{plain['method']}`", *rates, check]


def short_rates(report: dict) -> str:
    return f"{report['accuracy']['value']:.3f} / {report['triggers'][0]['asr']['value']:.3f}"


def performance_table(facts: dict) -> str:
    head = ["a round of", "published, s", "here, s", "faster", "images/s", "peak memory, MB", "share of peak"]
    rows = [performance_row(row) for row in facts["results"]]
    return f"{table(head, rows)}\n\n{performance_facts(facts)}"


def gpu_table() -> str:
    """Returns the rounds on a GPU, and how long the paper's run would take there."""
    folder = RESULTS / "gpu"
    rounds = performance_table(json.loads((folder / "benchmark.json").read_text()))
    rows = []
    for file in sorted(folder.glob("long_zskt_*.json")):
        facts = json.loads(file.read_text())
        precision = {"no": "float32"}.get(facts["mixed_precision"], facts["mixed_precision"])
        if facts["dynamo_backend"] != "no":
            precision = f"{precision}, {facts['dynamo_backend']}"
        rows.append(
            [
                precision,
                f"{1000 * facts['round_s']:.0f}",
                f"{1000 * facts['late_round_s']:.0f}",
                f"{facts['peak_mb']:,}",
                f"{facts['extrapolated_minutes']:.0f}",
            ]
        )
    head = [
        "ZSKT with both defenses",
        "a round, ms",
        "with retrospection, ms",
        "peak MB",
        "80,000 rounds, min",
    ]
    return f"{rounds}\n\n{table(head, rows)}"


def training_table() -> str:
    facts = json.loads((RESULTS / "benchmark_teacher.json").read_text())
    head = ["training loop", "images a second", "ratio"]
    rows = [
        [
            row["name"],
            f"{row['images_per_second']:,.0f} ({row['lowest']:,.0f} to {row['highest']:,.0f})",
            f"x{row['ratio']:.2f}",
        ]
        for row in facts["results"]
    ]
    setting = (
        f"({facts['network']}, {facts['batch_size']} images a step, ours in {facts['mixed_precision']}, the "
        f"plain loop in float32;\nmedians of {facts['turns']} alternating turns, lowest and highest in "
        f"brackets; device {facts['device']},\n"
        f"{facts['threads']} threads, {facts['machine']}, torch {facts['torch']}.)"
    )
    return f"{table(head, rows)}\n\n{setting}"


def performance_row(row: dict) -> list[str]:
    def both(name: str, form: str) -> str:
        return " / ".join(format(row[f"{side}_{name}"], form) for side in ("textbook", "ours"))

    method = row["name"] if row["precision"] in row["name"] else f"{row['name']}, {row['precision']}"
    times = [spread(row, side) for side in ("textbook", "ours")]
    shares = both("share_of_peak", ".0%")
    return [
        method,
        *times,
        f"x{row['ratio']:.2f}",
        both("images_per_second", ".0f"),
        both("peak_mb", "d"),
        shares,
    ]


def spread(row: dict, side: str) -> str:
    turns = row[f"{side}_turns_s"]
    return f"{row[f'{side}_s']:.4g} ({min(turns):.4g} to {max(turns):.4g})"


def performance_facts(facts: dict) -> str:
    size, peaks = facts["size"], facts["peak_gflops"]
    in_bf16 = f", {peaks['bf16']:.0f} in bf16" if "bf16" in peaks else ""
    lines = [
        f"({size['teacher']} to {size['student']}, {size['batch_size']} images a step, of "
        f"{size['image_size']} pixels; medians of {facts['turns']} alternating turns,\nlowest and highest in "
        f"brackets; pairs are published / here; device {facts['device'].partition(' (')[0]}, "
        f"threads: {facts['threads']},\n"
        f"{facts['machine']}, torch {facts['torch']}; measured peak {peaks['float32']:.0f} GFLOP/s in "
        f"float32{in_bf16}.)\n"
    ]
    for whole in facts["whole_run"]:
        lines.append(
            f"Over the whole run of ZSKT with both defenses, ours in {whole['precision']} is "
            f"{whole['ratio']:.2f} times as fast.\n0.75 % of its rounds have self-retrospection."
        )
    for field, found in facts.get("scaling", {}).items():
        cells = [f"{one['value']}: {one['ours_s']} (x{one['ratio']:.2f})" for one in found]
        lines.append(f"Seconds of zskt+sv by {field.replace('_', ' ')}: {', '.join(cells)}.")
    return "\n".join(lines)


def documents() -> dict[str, dict[str, str]]:
    """Returns the tables of each document, by the name in its marks."""
    benchmark = json.loads((RESULTS / "benchmark.json").read_text())
    return {
        "README.md": {"demo": demo_table("demo"), "purified": purified_overview()},
        "recipes/results/README.md": {
            "blend": demo_table("demo_blend"),
            "summary": summary_table(),
            "zoo": zoo_table(),
            "ibau": ibau_table(),
            "vaccine": vaccine_table(),
            "time": time_table(),
            "students": students_table(),
            "methods cifar10": methods_table("cifar10"),
            "methods gtsrb": methods_table("gtsrb"),
            "faults": faults_table(),
            "hub faults": hub_faults_table(),
            "two nodes": two_nodes_table(),
            "visitors": page_table(),
        },
        "recipes/guides/inspection.md": {
            "inspection": inspection_table(),
            "errors": error_table(),
            "own teachers": own_teachers_table(),
            "strangers": strangers_table(),
        },
        "recipes/guides/purification.md": {
            "purified": purified_summary(),
            "purification": purification_table(),
        },
        "recipes/benchmarks/README.md": {
            "performance": performance_table(benchmark),
            "gpu": gpu_table(),
            "teacher training": training_table(),
        },
    }


def filled(text: str, tables: dict[str, str]) -> str:
    """Returns the document with its tables.

    Raises:
        ValueError: the document lacks the marks of a table.
    """
    for name, content in tables.items():
        start, end = f"<!-- {name} table -->", f"<!-- end of {name} table -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    stale = []
    for name, tables in documents().items():
        file = ROOT / name
        text = file.read_text(encoding="utf-8")
        new = filled(text, tables)
        if new != text:
            stale.append(name)
        if "--check" not in sys.argv:
            file.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"documents that differ from the results: {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
