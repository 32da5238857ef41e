"""Write the README's tables from the JSON files under recipes/results.

python recipes/tables.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes" / "results"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def demo_table(folder: str) -> str:
    runs = [json.loads(file.read_text()) for file in sorted((RESULTS / folder).glob("seed*.json"))]
    models = [{"teacher": run["teacher"], **run["students"]} for run in runs]
    rows = []
    for name in models[0]:
        each = [f"{found[name]['accuracy']:.3f} / {found[name]['asr']:.3f}" for found in models]
        means = [mean(found[name][kind] for found in models) for kind in ("accuracy", "asr")]
        rows.append([name, *each, f"**{means[0]:.3f} / {means[1]:.3f}**"])
    n = f"accuracy over {runs[0]['teacher']['accuracy_n']} images, ASR over {runs[0]['teacher']['asr_n']}"
    header = ["accuracy / ASR", *[f"seed {index}" for index in range(len(runs))], "mean"]
    return f"{table(header, rows)}\n\n({n}; intervals are in `recipes/results/{folder}/`.)"


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
    return table(["model", "defences", "accuracy", "ASR", "robust accuracy", "cost"], ibau_rows())


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
    """By data set and length; the clean teacher first."""
    poison = record["poison"] or {"trigger": ""}
    return record["training_data"]["id"], record["recipe"]["epochs"], poison["trigger"]


def zoo_table() -> str:
    head = ["data", "epochs", "trigger", "accuracy", "ASR", "ASR of the clean teacher", "training"]
    return table(head, zoo_rows())


def methods_table(data: str) -> str:
    head = ["method", "defences", "accuracy", "ASR", "ASR of the control", "rounds", "core minutes"]
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
    """The controls first, then by year of the paper; plain before defended."""
    order = ["real", "ood", "zskt", "dafl", "dfad", "dfq", "deepinversion", "cmi", "fast"]
    return order.index(record["method"]), len(record["defenses"])


def performance_table(facts: dict) -> str:
    head = ["a round of", "published, s", "here, s", "faster", "images/s", "peak memory, MB", "share of peak"]
    rows = [performance_row(row) for row in facts["results"]]
    return f"{table(head, rows)}\n\n{performance_facts(facts)}"


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
    lines = [
        f"({size['teacher']} to {size['student']}, {size['batch_size']} images a step, of "
        f"{size['image_size']} pixels; medians of {facts['turns']} alternating turns, lowest and highest in "
        f"brackets; pairs are published / here; device {facts['device']}, {facts['threads']} threads, "
        f"{facts['machine']}, torch {facts['torch']}; measured peak {peaks['float32']:.0f} GFLOP/s in "
        f"float32, {peaks['bf16']:.0f} in bf16.)"
    ]
    for whole in facts["whole_run"]:
        lines.append(
            f"Over the whole run of ZSKT with both defences, of which 0.75 % of the rounds have "
            f"self-retrospection, ours in {whole['precision']} is {whole['ratio']:.2f} times as fast."
        )
    for field, found in facts.get("scaling", {}).items():
        cells = [f"{one['value']}: {one['ours_s']} (x{one['ratio']:.2f})" for one in found]
        lines.append(f"Seconds of zskt+sv by {field.replace('_', ' ')}: {', '.join(cells)}.")
    return "\n".join(lines)


def filled(text: str) -> str:
    for name, content in (
        ("demo", demo_table("demo")),
        ("zoo", zoo_table()),
        ("ibau", ibau_table()),
        ("performance", performance_table(json.loads((RESULTS / "benchmark.json").read_text()))),
        *[(f"methods {data}", methods_table(data)) for data in ("cifar10", "gtsrb")],
    ):
        start, end = f"<!-- {name} table -->", f"<!-- end of {name} table -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    if "--check" in sys.argv:
        return int(filled(text) != text)
    readme.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
