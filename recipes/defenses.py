"""Distill published poisoned teachers with every defense and purification, at an equal processor time.

    python recipes/defenses.py FOLDER --data cifar10=DATA gtsrb=DATA --triggers PICTURES \
        --core-minutes 20 --seeds 0 1 2 --output-dir runs/defenses --results recipes/results/defenses

FOLDER and PICTURES are those of purify_teachers.py. The student of a clean teacher is measured with the
triggers of all poisoned teachers of its data set, and is their control. Every row runs the method fast for
the same processor time, inspections and purification included. The script times a few rounds of a row and
chooses the number of rounds. The record holds the time that the row really took. One JSON file is written
for each teacher, row and seed; one that is there is not run again, and an interrupted row begins anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import torch
from accelerate import PartialState
from compare_methods import budgeted, with_rounds
from device_name import name_of
from published_teachers import TARGETS, load
from purify_teachers import PICTURES, picture_and_mask

from abd_hub import (
    ChannelLipschitzPruning,
    Classifier,
    Dhbe,
    DistillConfig,
    EvaluationOptions,
    SelfRetrospection,
    ShufflingVaccine,
    TrainerOptions,
    TriggerOptions,
    TriggerUnlearning,
    UniversalDirection,
    distill,
    parse_distill,
    purify_model,
)

HERE = Path(__file__).resolve().parent
POISONED = [name for name, target in TARGETS.items() if target is not None]
VACCINE = ShufflingVaccine(check_batches=12, check_ignored=2)
RETROSPECTION = SelfRetrospection(last_rounds=1)
ROWS: dict[str, dict] = {
    "plain": {},
    "sv": {"defenses": [VACCINE]},
    "sr": {"defenses": [RETROSPECTION]},
    "abd": {"defenses": [VACCINE, RETROSPECTION]},
    "universal_direction": {"defenses": [UniversalDirection()]},
    "dhbe": {"defenses": [Dhbe()]},
    "channel_lipschitz_pruning": {"purification": ChannelLipschitzPruning()},
    "trigger_unlearning": {"purification": TriggerUnlearning()},
    "auto": {"purification": "auto"},
}
"""The defenses and the purification of each row; abd is the paper's."""
STUDENT_TOO = 1.3
"""The student is inspected as well, which takes a third of the purification with its two inspections."""
MINUTES: dict[tuple[str, str], float] = {}
"""What the purification of a teacher takes by name and row, measured once."""


def main() -> None:
    options = arguments()
    places = dict(item.split("=", 1) for item in options.data)
    for seed in options.seeds:
        for name in options.teachers:
            teacher = load(options.folder, name)
            for row in options.rows:
                result = options.results / f"{name}_{row}_seed{seed}.json"
                if not result.exists():
                    run(options, places, name, row, seed, teacher, result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the checkpoints")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--triggers", type=Path, required=True, help="holds the pictures of the triggers")
    parser.add_argument("--core-minutes", type=float, default=20, help="the processor time of a row")
    parser.add_argument(
        "--rounds", nargs="+", default=[], metavar="ROW=N", help="sets the rounds of a row without timing it"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teachers", nargs="+", default=POISONED, choices=list(TARGETS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--limit", type=int, default=4000, help="test images that measure a student")
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/defenses"))
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher, row and seed")
    return parser.parse_args()


def run(
    options: argparse.Namespace,
    places: dict[str, str],
    name: str,
    row: str,
    seed: int,
    teacher: Classifier,
    result: Path,
) -> None:
    """Runs one row, and writes its record in one step."""
    folder = options.output_dir / f"{name}_{row}_seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted row may have left it
    data = "gtsrb" if name.startswith("gtsrb") else "cifar10"
    config = configured(options, data, places[data], name, folder, seed)

    defended = dataclasses.replace(config, defenses=ROWS[row].get("defenses", ()))
    given = dict(item.split("=", 1) for item in options.rounds)
    if row in given:
        sized = with_rounds(defended, int(given[row]))
    else:
        sized = sized_by_time(defended, teacher, name, row, options.core_minutes)
    sized = dataclasses.replace(sized, purification=ROWS[row].get("purification", "none"))
    print(f"{name}, {row}, seed {seed}: {sized.synthesizer.rounds} rounds", flush=True)
    began = time.process_time()
    distill(sized, teacher)

    record = json.loads((folder / "metrics.json").read_text())
    record["core_minutes"] = round((time.process_time() - began) / 60, 2)
    record |= {"teacher_name": name, "row": row, "device": name_of(PartialState().device)}
    keep(record, result)


def keep(record: dict, result: Path) -> None:
    """Writes a record among the results in one step, and prints the student's rates."""
    result.parent.mkdir(parents=True, exist_ok=True)
    temporary = result.with_suffix(".new")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(result)
    student = record["results"]["student"]
    asr = student["triggers"][0]["asr"]["value"]
    print(f"{result.stem}: accuracy {student['accuracy']['value']:.3f}, ASR {asr:.3f}", flush=True)


def sized_by_time(
    config: DistillConfig, teacher: Classifier, name: str, row: str, minutes: float
) -> DistillConfig:
    """Returns the run with the rounds that fit the processor time that the purification leaves."""
    spent = MINUTES.setdefault((name, row), 0.0) or purification_minutes(teacher, ROWS[row])
    MINUTES[name, row] = spent
    return budgeted(config, teacher, max(1.0, minutes - spent))


def configured(
    options: argparse.Namespace, data: str, place: str, name: str, folder: Path, seed: int
) -> DistillConfig:
    """Returns the run without defenses and without purification."""
    settings = ["--config", str(HERE / data / "fast-cpu.yaml"), "--teacher.id", name]
    config = parse_distill([*settings, "--output_dir", str(folder)])
    attacks = [attack_of(one, options.triggers, folder.parent) for one in attackers(name, data)]
    return dataclasses.replace(
        config,
        defenses=(),
        evaluation=EvaluationOptions(dataset=place, limit=options.limit, triggers=attacks),
        trainer=TrainerOptions(
            mixed_precision=options.mixed_precision, checkpoint_every=0, log_every=5, progress=False
        ),
        seed=seed,
    )


def attackers(name: str, data: str) -> list[str]:
    """Returns the teachers whose triggers measure a student; a clean teacher's is the control of them all."""
    if TARGETS[name] is not None:
        return [name]
    return [one for one in POISONED if one.startswith("gtsrb") == (data == "gtsrb")]


def attack_of(name: str, pictures: Path, place: Path) -> TriggerOptions:
    """Returns the trigger that poisoned a teacher, with its target."""
    trigger, given = trigger_options(name, pictures, place)
    return TriggerOptions(name=trigger, target=TARGETS[name] or 0, options=given)


def trigger_options(name: str, pictures: Path, place: Path) -> tuple[str, dict]:
    """Returns the name and the options of the trigger that poisoned a teacher."""
    if name.endswith("badnets_8"):
        return "badnet_sq", {"size": 4, "margin": 1}
    if name == "trojan_wm_2":
        return "picture", {"file": str(pictures / "trojan_wm.png"), "mode": "add"}
    picture, mask = picture_and_mask(pictures / PICTURES.get(name, "grey5.png"), place)
    return "picture", {"file": str(picture), "mask": str(mask), "mode": "replace"}


def purification_minutes(teacher: Classifier, row: dict) -> float:
    """Returns the processor minutes of the purification with its inspections, the student's included."""
    purification = row.get("purification", "none")
    if purification == "none":
        return 0.0
    began = time.process_time()
    settings = None if purification == "auto" else purification
    purify_model(teacher, purification=settings, force=purification != "auto")
    return (time.process_time() - began) / 60 * STUDENT_TOO


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
