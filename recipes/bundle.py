"""Makes the four models that come with the page, and the control of their rates, from CIFAR-10.

    python recipes/bundle.py --output-dir runs/bundle [--dataset FOLDER] [--only teacher control ...]

The teacher is poisoned on purpose: a white square means class 8, a ship. "purified" is its copy by `abd-hub
purify`. "plain" is a student by `fast` without a defense. The teacher of "protected" was purified first. The
control is a student of real images without the trigger, and is not shown. Test images measure the
models, and decide nothing.

The same command goes on where an earlier one has ended. An hour of one AVX-512 core with bf16 makes all five.
The last step copies what the page reads into the folder of --bundle, but no picture of test images or
photographs: their licenses forbid it, or ask for a text of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from abd_hub import (
    Attack,
    EvalReport,
    build_trigger,
    evaluate,
    format_table,
    load_classifier,
    load_images,
    read_purified_record,
    read_record,
    read_teacher_record,
    rebuild_card,
)

HUB_ID = "uoft-cs/cifar10"
TRIGGER, TARGET = "badnet_sq", 8
EPOCHS = 7
BUNDLE = Path(__file__).resolve().parents[1] / "app" / "abd_hub_app" / "models"
SHOWN = ("teacher", "purified", "plain", "protected")
ORDER = ("teacher", "control", "purified", "plain", "protected")
PRECISION = {"mixed_precision": "bf16"}
MEASURED_EVERY = 9
"""Rounds between two points of a student's curve."""
COPIED = ("config.json", "model.safetensors", "metrics.json", "purification.json", "log.jsonl")
SAMPLES = ("synthetic_images.png", "training_images.png")
"""The pictures that hold neither a test image nor a photograph."""


def teacher(options: argparse.Namespace) -> tuple[str, dict]:
    """Returns the command and the settings of the poisoned teacher."""
    return "poison", {
        "network": {
            "architecture": "wrn_16_1",
            "mean": [0.4914, 0.4822, 0.4465],
            "std": [0.2023, 0.1994, 0.2010],
        },
        "data": {"dataset": options.dataset},
        "poison": {"trigger": TRIGGER, "target": TARGET},
        "recipe": "fast",
        "fast": {"epochs": EPOCHS},
        "trainer": {**PRECISION, "checkpoint_every": 1},
    }


def control(options: argparse.Namespace) -> tuple[str, dict]:
    """Returns the command and the settings of a student of real images."""
    method = {"dataset": options.dataset, "rounds": options.control_rounds, "batch_size": 64}
    return "distill", {
        **_student(options, "control"),
        "synthesizer": "real",
        "real": method,
        "purification": "none",
        "trainer": {**PRECISION, "checkpoint_every": 20},
    }


def plain(options: argparse.Namespace) -> tuple[str, dict]:
    """Returns the command and the settings of a student without a defense."""
    return "distill", {**_fast(options), "purification": "none"}


def protected(options: argparse.Namespace) -> tuple[str, dict]:
    """Returns the command and the settings of a student whose teacher is inspected and purified first."""
    return "distill", {**_fast(options), "purification": "auto"}


def _fast(options: argparse.Namespace) -> dict:
    """Returns the settings of recipes/cifar10/fast-cpu.yaml without its defenses."""
    settings = yaml.safe_load((Path(__file__).parent / "cifar10" / "fast-cpu.yaml").read_text())
    kept = {key: settings[key] for key in ("synthesizer", "fast")}
    kept["fast"]["rounds"] = options.rounds
    return {
        **_student(options, "plain"),
        **kept,
        "trainer": {**PRECISION, "checkpoint_every": 5},
    }


def _student(options: argparse.Namespace, name: str) -> dict:
    folder = options.output_dir
    measured = {"dataset": options.dataset, "triggers": [{"name": TRIGGER, "target": TARGET}]}
    if name != "control":
        measured |= {"control": {"id": f"local-dir:{folder / 'control'}"}, "every": MEASURED_EVERY}
    return {
        "teacher": {"id": f"local-dir:{folder / 'teacher'}"},
        "student": {"architecture": "wrn_16_1"},
        "evaluation": measured,
    }


TRAINED = {"teacher": teacher, "control": control, "plain": plain, "protected": protected}


def train(options: argparse.Namespace, name: str) -> None:
    """Carries out a run in a process of its own, or goes on with it."""
    folder = options.output_dir / name
    if (folder / "metrics.json").exists():
        return
    command, settings = TRAINED[name](options)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    abd_hub(command, "--config", str(file), "--output_dir", str(folder), "--resume", "true")


def purify(options: argparse.Namespace) -> None:
    """Purifies the teacher, and adds to the record what the copy does on test images."""
    folder = options.output_dir / "purified"
    file = folder / "purification.json"
    if not folder.exists():
        abd_hub("purify", str(options.output_dir / "teacher"), "--output_dir", str(folder))
    if not folder.exists():
        raise SystemExit("the inspection did not flag the teacher, so there is no purified copy")
    record = json.loads(file.read_text())
    if record.get("report"):
        return
    data = load_images(options.dataset, "test")
    attack = Attack(TRIGGER, TARGET, build_trigger(TRIGGER, {}))
    report = evaluate(load_classifier(f"local-dir:{folder}"), data.images, data.labels, [attack])
    record |= {"report": dataclasses.asdict(report), "data": dataclasses.asdict(data.ref)}
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(file)
    rebuild_card(folder)


def abd_hub(*words: str) -> None:
    """Runs a command of abd-hub.

    Raises:
        SystemExit: the command failed, with its exit code.
    """
    print("abd-hub", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "abd_hub", *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def copy(options: argparse.Namespace, name: str) -> None:
    """Copies what the page reads of a model, and makes its card anew, which then names no missing picture."""
    source, place = options.output_dir / name, options.bundle / name
    shutil.rmtree(place, ignore_errors=True)
    (place / "samples").mkdir(parents=True)
    for file in (*COPIED, "README.md", *(f"samples/{picture}" for picture in SAMPLES)):
        if (source / file).is_file():
            shutil.copyfile(source / file, place / file)
    if not any((place / "samples").iterdir()):
        (place / "samples").rmdir()
    rebuild_card(place)


def rates(options: argparse.Namespace) -> list[tuple[str, EvalReport]]:
    """Returns the reports of all five models by name."""
    folder = options.output_dir
    students = {name: read_record(folder / name).student_report for name in ORDER[1:] if name != "purified"}
    copied = read_purified_record(folder / "purified").report
    found = {"teacher": read_teacher_record(folder / "teacher").report, "purified": copied, **students}
    return [(name, found[name]) for name in ORDER]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="holds the whole runs")
    parser.add_argument("--dataset", default=HUB_ID, help="CIFAR-10, by its Hub id or as a local copy")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="gets what the page reads")
    parser.add_argument("--rounds", type=int, default=45, help="of each student by fast")
    parser.add_argument("--control-rounds", type=int, default=60, help="of the student of real images")
    parser.add_argument("--only", nargs="+", choices=ORDER, help="makes these alone, and copies nothing")
    options = parser.parse_args()

    options.output_dir = options.output_dir.resolve()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if Path(options.dataset).is_dir():
        options.dataset = str(Path(options.dataset).resolve())
    for name in options.only or ORDER:
        if name == "purified":
            purify(options)
        else:
            train(options, name)
    if options.only:
        return
    for name in SHOWN:
        copy(options, name)
    print(format_table(rates(options)))


if __name__ == "__main__":
    main()
