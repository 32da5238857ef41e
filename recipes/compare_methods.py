"""Runs every data-free method on one poisoned teacher, plain and with ABD, each for the same processor time.

The settings come from recipes/<data>/<method>-cpu.yaml. The script times a few rounds of each row and then
chooses the number of rounds for which every row costs about the same. The record holds the time that the row
really took, without the patches of ood (20 s) and without the measuring. A finished row does not run again.
The teacher is one published with I-BAU, see ibau_teacher.py.

    python recipes/compare_methods.py CHECKPOINT.pth CIFAR10 cifar10 --control CLEAN --core-minutes 10
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import torch
from ibau_teacher import load_teacher

from abd_hub import (
    Classifier,
    DistillConfig,
    ModelOptions,
    SelfRetrospection,
    ShufflingVaccine,
    Trainer,
    TrainerOptions,
    TriggerOptions,
    create_student,
    distill,
    load_images,
    parse_distill,
)

HERE = Path(__file__).resolve().parent
METHODS = ("real", "ood", "zskt", "dafl", "dfad", "dfq", "fast", "cmi", "deepinversion")
RETROSPECTION_SHARE = 0.01
"""Sets the share of rounds with retrospection. In the paper it is 0.0075 for ZSKT on CIFAR-10, 0.02 on GTSRB,
and 0.01 to 0.015 for CMI. On a CPU core a student step with it takes as long as about twenty without.
With 0.02 it would take a third of a row's time."""
TIMED = 3
"""Sets the timed rounds. An untimed one precedes them, because it may lack a part of the others."""
TOLERANCE = 0.1
"""Sets the share by which a row may miss the budget. When the recipe starts again, a row outside runs once
more, by its own cost; its first result stays in ``first/``."""


def main() -> None:
    options = arguments()
    labels = load_images(options.dataset, "test", limit=1).names
    teacher = load_teacher(options.checkpoint, labels).freeze()
    for method in options.only:
        for defended in (False, True):
            run_row(method, defended, teacher, options)


def run_row(method: str, defended: bool, teacher: Classifier, options: argparse.Namespace) -> None:
    """Runs one row unless it is done, and keeps its record among the results."""
    row = f"{method}_{'abd' if defended else 'plain'}"
    result = options.results / options.data / f"{row}.json"
    if result.exists():
        refuse_other_run(result, teacher, options)
    if is_done(result, options.core_minutes):
        print(f"{row}: done before")
        return

    folder = options.output_dir / options.data / row
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted row may have left it
    config = configured(method, defended, folder, options)
    if result.exists():
        config = by_its_own_cost(config, result, options.core_minutes)
    else:
        config = budgeted(config, teacher, options.core_minutes)
    print(f"{row}: {config.synthesizer.rounds} rounds", flush=True)
    distill(config, teacher)

    record = json.loads((folder / "metrics.json").read_text())
    first_of(result).parent.mkdir(parents=True, exist_ok=True)
    if result.exists():
        result.replace(first_of(result))
    result.write_text(json.dumps(record, indent=1) + "\n")
    student = record["results"]["student"]
    asr = student["triggers"][0]["asr"]["value"]
    print(f"{row}: accuracy {student['accuracy']['value']:.3f}, ASR {asr:.3f}", flush=True)


def refuse_other_run(result: Path, teacher: Classifier, options: argparse.Namespace) -> None:
    """Exits where a result comes from another run."""
    record = json.loads(result.read_text())
    target = record["results"]["teacher"]["triggers"][0]["target"]
    found = (record["teacher"]["sha256"], record["seed"], target)
    if found != (teacher.ref.sha256, options.seed, options.target):
        raise SystemExit(
            f"{result}: belongs to another teacher, seed or target; set --results to another folder"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument(
        "dataset", help="Measure on this Hub id or folder; only the method real trains on it."
    )
    parser.add_argument("data", choices=("cifar10", "gtsrb"), help="Use the settings for this data set.")
    parser.add_argument(
        "--control", required=True, help="Name the folder of a clean model, see abd-hub poison."
    )
    parser.add_argument("--core-minutes", type=float, default=10, help="Set the processor time of a row.")
    parser.add_argument("--only", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--target", type=int, default=8)
    parser.add_argument("--limit", type=int, help="Measure on the first so many test images.")
    parser.add_argument("--mixed-precision", default="bf16", choices=("no", "bf16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, default=Path("runs/methods/results"))
    return parser.parse_args()


def configured(method: str, defended: bool, folder: Path, options: argparse.Namespace) -> DistillConfig:
    settings = HERE / options.data / f"{method}-cpu.yaml"
    config = parse_distill(
        ["--config", str(settings), "--output_dir", str(folder), "--teacher.id", options.checkpoint]
    )
    synthesizer = config.synthesizer
    if method == "real":
        synthesizer = dataclasses.replace(synthesizer, dataset=options.dataset)
    evaluation = dataclasses.replace(
        config.evaluation,
        dataset=options.dataset,
        image_size=None,
        limit=options.limit,
        triggers=[TriggerOptions(name="badnet_sq", target=options.target)],
        control=ModelOptions(id=f"local-dir:{options.control}"),
    )
    return dataclasses.replace(
        config,
        synthesizer=synthesizer,
        defenses=config.defenses if defended else [],
        evaluation=evaluation,
        trainer=TrainerOptions(
            mixed_precision=options.mixed_precision, checkpoint_every=0, log_every=5, progress=False
        ),
        seed=options.seed,
    )


def budgeted(config: DistillConfig, teacher: Classifier, minutes: float) -> DistillConfig:
    """Returns the same run with as many rounds as fit the processor time."""
    eager = resized(config, config.synthesizer.rounds, 1, idle=0)
    plain = without_retrospection(eager)
    first = seconds(resized(plain, 1, 1), teacher)
    later = (seconds(resized(plain, 1 + TIMED, 1), teacher) - first) / TIMED
    late = seconds(resized(eager, 2, 1), teacher) - first if config.defenses else later
    a_round = (1 - RETROSPECTION_SHARE) * later + RETROSPECTION_SHARE * late
    return with_rounds(config, max(2, round(minutes * 60 / a_round)))


def with_rounds(config: DistillConfig, rounds: int) -> DistillConfig:
    return resized(config, rounds, max(1, round(RETROSPECTION_SHARE * rounds)))


def first_of(result: Path) -> Path:
    """Returns the place for the first result of a row that runs a second time."""
    return result.parent / "first" / result.name


def is_done(result: Path, minutes: float) -> bool:
    if not result.exists():
        return False
    return first_of(result).exists() or abs(core_minutes(result) / minutes - 1) <= TOLERANCE


def by_its_own_cost(config: DistillConfig, result: Path, minutes: float) -> DistillConfig:
    """Returns the run with the rounds that fit by its own cost.

    The timed rounds cost more than the row where the row then refused the vaccine.
    """
    rounds = json.loads(result.read_text())["rounds"]
    return with_rounds(config, max(2, round(rounds * minutes / core_minutes(result))))


def core_minutes(result: Path) -> float:
    return json.loads(result.read_text())["durations"]["distillation_processor"] / 60


def seconds(config: DistillConfig, teacher: Classifier) -> float:
    """Returns the processor seconds of the loop, with the vaccine at work from the first image on."""
    config = unchecked(config)
    trainer = Trainer(
        teacher,
        fresh_student(config, teacher),
        config.synthesizer,
        [defense.build(teacher, config.seed) for defense in config.defenses],
        config.trainer,
        seed=config.seed,
        images=some_images(config),
    )
    trainer.fit()
    return trainer.processor_seconds


def resized(config: DistillConfig, rounds: int, retrospection: int, idle: int | None = None) -> DistillConfig:
    """Returns the run with so many rounds; a warm-up keeps its share, or becomes ``idle`` rounds."""
    method = config.synthesizer
    warmup = {}
    if hasattr(method, "warmup_rounds"):
        share = int(method.warmup_rounds / method.rounds * rounds)
        warmup = {"warmup_rounds": share if idle is None else idle}
    return dataclasses.replace(
        config,
        synthesizer=dataclasses.replace(method, rounds=rounds, **warmup),
        defenses=[
            dataclasses.replace(defense, last_rounds=retrospection) if is_retrospection(defense) else defense
            for defense in config.defenses
        ],
    )


def unchecked(config: DistillConfig) -> DistillConfig:
    defenses = [
        dataclasses.replace(defense, check=False) if isinstance(defense, ShufflingVaccine) else defense
        for defense in config.defenses
    ]
    return dataclasses.replace(config, defenses=defenses)


def without_retrospection(config: DistillConfig) -> DistillConfig:
    kept = [defense for defense in config.defenses if not is_retrospection(defense)]
    return dataclasses.replace(config, defenses=kept)


def is_retrospection(defense: object) -> bool:
    return isinstance(defense, SelfRetrospection)


def fresh_student(config: DistillConfig, teacher: Classifier) -> Classifier:
    scale = [statistic.flatten().tolist() for statistic in (teacher.image_mean, teacher.image_std)]
    return create_student(config.student.architecture, teacher.spec, *scale, seed=config.seed)


def some_images(config: DistillConfig) -> torch.Tensor | None:
    source = config.synthesizer.image_source()
    if source is None:
        return None
    return load_images(source.dataset, source.split, limit=2000, image_size=source.image_size).images


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
