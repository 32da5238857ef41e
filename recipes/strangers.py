"""Lets the two commands of the quickstart judge ten teachers on which no setting of abd-hub was chosen.

    python recipes/strangers.py --data cifar10=DATA gtsrb=DATA --output-dir runs/strangers \
        --results recipes/results/strangers

Five of the teachers have a backdoor. The commands see a folder and nothing else. Test images measure teachers
and students afterwards, and decide nothing. Each teacher gets a JSON file, and one that is there is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from stranger_teachers import STRANGERS, Stranger, make_teacher

from abd_hub import Attack, evaluate, load_classifier, load_images, read_record, verdict


def main() -> None:
    options = arguments()
    places = dict(item.split("=", 1) for item in options.data)
    for stranger in STRANGERS:
        result = options.results / f"{stranger.name}.json"
        if stranger.name in options.only and not result.exists():
            facts = judged(stranger, places[stranger.data], options)
            options.results.mkdir(parents=True, exist_ok=True)
            temporary = result.with_suffix(".new")
            temporary.write_text(json.dumps(facts, indent=1) + "\n")
            temporary.replace(result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/strangers"))
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher")
    parser.add_argument("--budget", default="10m", help="the time of a distillation")
    parser.add_argument("--limit", type=int, default=2000, help="test images that measure a model")
    names = [stranger.name for stranger in STRANGERS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, help="these teachers alone")
    return parser.parse_args()


def judged(stranger: Stranger, place: str, options: argparse.Namespace) -> dict[str, Any]:
    """Makes a teacher, runs both commands on it, and measures what they gave."""
    teacher, student = (options.output_dir / kind / stranger.name for kind in ("teachers", "students"))
    if not teacher.exists():
        make_teacher(stranger, load_images(place, "train"), teacher)

    report = json.loads(abd_hub("inspect", str(teacher), "--json").stdout)
    began = time.monotonic()
    abd_hub("distill", str(teacher), "--output_dir", str(student), "--budget", options.budget)
    return {
        "name": stranger.name,
        "library": "transformers" if stranger.of_transformers else "timm",
        "architecture": stranger.architecture,
        "data": stranger.data,
        "trigger": stranger.trigger,
        "target": stranger.target if stranger.trigger else None,
        "teacher": measured(stranger, teacher, place, options.limit),
        "inspection": {
            "suspects": report["suspects"],
            "joint_ratio": report["scores"]["joint"],
            "seconds": round(report["seconds"]),
        },
        **told(student, place, stranger, options.limit),
        "budget": options.budget,
        "seconds": round(time.monotonic() - began),
    }


def told(student: Path, place: str, stranger: Stranger, limit: int) -> dict[str, Any]:
    """Returns what a finished run says of itself, and its measured rates."""
    record = read_record(student)
    purification = record.purification or {}
    return {
        "student": measured(stranger, student, place, limit),
        "student_architecture": record.student.architecture,
        "purified": purification.get("changed") is True,
        "suspects_in_the_run": (purification.get("inspected") or {}).get("suspects", []),
        "student_suspects": (record.student_inspection or {}).get("suspects"),
        "verdict": [finding.text for finding in verdict(record)],
    }


def measured(stranger: Stranger, folder: Path, place: str, limit: int) -> dict[str, float | None]:
    """Returns accuracy and ASR on test images; no ASR where there is no trigger."""
    classifier = load_classifier(str(folder)).freeze()
    images = load_images(place, "test", limit=limit)
    trigger = stranger.built_trigger()
    attacks = [Attack(stranger.trigger, stranger.target, trigger)] if trigger else []
    report = evaluate(classifier, images.images, images.labels, attacks)
    return {
        "accuracy": report.accuracy.value,
        "asr": report.triggers[0].asr.value if attacks else None,
        "images": len(images.labels),
    }


def abd_hub(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of abd-hub to its end."""
    return subprocess.run(
        [sys.executable, "-m", "abd_hub", *words], stdout=subprocess.PIPE, text=True, check=True
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
