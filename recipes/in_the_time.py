"""Distill published teachers within a time, without defense and purification, and measure the students.

    python recipes/in_the_time.py FOLDER --data cifar10=DATA gtsrb=DATA --triggers PICTURES --budget 20m \\
        --methods ood fast --teachers badnets_8 gtsrbbadnets_8 --seeds 0 1 2 --results DIR

FOLDER and PICTURES are those of purify_teachers.py. recipes/<data>/<method>-cpu.yaml has the settings, and
the budget replaces their rounds. The time holds for the whole run, from the first line to the card. One JSON
file is written for each teacher, method, budget and seed, and one that is there is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import torch
from compare_methods import METHODS
from defenses import HERE, POISONED, attack_of, keep, load

from abd_hub import DistillConfig, EvaluationOptions, TrainerOptions, distill, parse_distill


def main() -> None:
    options = arguments()
    places = dict(item.split("=", 1) for item in options.data)
    if options.threads:
        torch.set_num_threads(options.threads)
    for seed in options.seeds:
        for name in options.teachers:
            for method in options.methods:
                result = options.results / f"{name}_{method}_{options.budget}_seed{seed}.json"
                if not result.exists():
                    run(options, places, name, method, seed, result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Holds the checkpoints.")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--triggers", type=Path, required=True, help="Holds the pictures of the triggers.")
    parser.add_argument("--budget", default="20m", help="Sets the time of a run.")
    parser.add_argument("--threads", type=int, help="Sets the threads of torch.")
    parser.add_argument("--methods", nargs="+", default=["ood"], choices=METHODS)
    parser.add_argument("--teachers", nargs="+", default=POISONED, choices=POISONED)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="Measure on the first so many test images.")
    parser.add_argument("--mixed-precision", default="bf16", choices=("no", "bf16"))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/in_the_time"))
    parser.add_argument("--results", type=Path, required=True)
    return parser.parse_args()


def run(
    options: argparse.Namespace, places: dict[str, str], name: str, method: str, seed: int, result: Path
) -> None:
    """Runs one row, and writes its record in one step."""
    data = "gtsrb" if name.startswith("gtsrb") else "cifar10"
    folder = options.output_dir / result.stem
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted row may have left it
    config = configured(options, data, places[data], name, method, folder, seed)

    began, processor_began = time.perf_counter(), time.process_time()
    distill(config, load(options.folder, name))
    record = json.loads((folder / "metrics.json").read_text())
    record["seconds"] = round(time.perf_counter() - began, 1)
    record["processor_seconds"] = round(time.process_time() - processor_began, 1)
    record["budget"], record["threads"] = options.budget, torch.get_num_threads()
    keep(record, result)


def configured(
    options: argparse.Namespace, data: str, place: str, name: str, method: str, folder: Path, seed: int
) -> DistillConfig:
    """Returns the run without defenses and without purification, with a budget in place of rounds."""
    settings = ["--config", str(HERE / data / f"{method}-cpu.yaml"), "--teacher.id", name]
    config = parse_distill([*settings, "--output_dir", str(folder), "--budget", options.budget])
    attack = attack_of(name, options.triggers, folder.parent)
    return dataclasses.replace(
        config,
        defenses=(),
        evaluation=EvaluationOptions(dataset=place, limit=options.limit, triggers=[attack]),
        trainer=TrainerOptions(mixed_precision=options.mixed_precision, progress=False),
        seed=seed,
    )


if __name__ == "__main__":
    main()
