"""Trains a poisoned or clean teacher from a configuration: load, poison, train, measure, write."""

from __future__ import annotations

import dataclasses
import time
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import TriggerOptions, without_paths
from abd_hub.config.poison import PoisonConfig
from abd_hub.core import files
from abd_hub.core.errors import InputError, Interrupted, quiet_stops
from abd_hub.core.record_file import environment
from abd_hub.core.records import DataSpec, EvalReport, ModelRef, PoisonFacts, Rate, TeacherRecord
from abd_hub.core.seeding import derive_seed
from abd_hub.data import pgd
from abd_hub.data.images import ImageData, overlap
from abd_hub.data.poisoning import PoisonedSet, Prepare, hold_out, poison, subset
from abd_hub.evaluation.attacks import check_inputs
from abd_hub.evaluation.counting import evaluate
from abd_hub.evaluation.measurement import (
    Measurement,
    check_same_labels,
    load_measurement,
    load_model,
    load_split,
)
from abd_hub.evaluation.rates import all_to_all_rate
from abd_hub.learning.progress import followed_by, shown
from abd_hub.models.classifier import Classifier, create_student, load_classifier
from abd_hub.models.saving import save_timm_folder
from abd_hub.publish.push import plan_push, push_finished
from abd_hub.runs.budget import FINISH_SECONDS, evaluation_seconds
from abd_hub.runs.finishing import finish
from abd_hub.runs.image_statistics import channel_statistics
from abd_hub.runs.pinning import pinned_training
from abd_hub.runs.poisoned_folder import Material, write_teacher_folder
from abd_hub.runs.raising import with_raised_epochs
from abd_hub.training.pace import Pace
from abd_hub.training.remaining import Forecast, Remaining
from abd_hub.training.running import claimed, device_name, make_accelerator
from abd_hub.training.teacher_trainer import TeacherTrainer
from abd_hub.triggers import build_trigger, trigger_sha256

SURROGATE = "surrogate"


def poison_teacher(config: PoisonConfig) -> TeacherRecord:
    """Trains one teacher on a data set with a poisoned share, and writes its output folder.

    Args:
        config: the configuration of the run; without ``poison.trigger`` the teacher is clean.

    Returns:
        The record that metrics.json holds.

    Raises:
        InputError: the configuration is wrong, and nothing has been written; or the training diverged; or
            the finished run could not be pushed.
        Interrupted: the run was stopped and can be resumed.
    """
    with shown(config.trainer.progress), quiet_stops():
        return _poisoned_teacher(config)


def _poisoned_teacher(config: PoisonConfig) -> TeacherRecord:
    accelerator = make_accelerator(config.trainer, Path(config.output_dir))
    destination = plan_push(config, config.output_dir, "teacher", accelerator)

    material, trainer = opened(config, accelerator)
    config = with_raised_epochs(config, trainer.steps, accelerator)
    trainer.pace = Pace(config.recipe.epochs, config.planned_epochs)
    surrogate = _given_surrogate(config, trainer.classifier, material.data)
    try:
        with claimed(config.output_dir, config.resume, config.to_yaml(), accelerator):
            began = time.monotonic()
            if config.poison.perturbation:
                material = _perturbed(config, material, accelerator, surrogate)
                trainer.images = material.poisoned.images.to(accelerator.device)
            record = train_and_write(config, trainer, material, time.monotonic() - began)
    finally:
        if config.trainer.trackers:
            accelerator.end_training()

    push_finished(destination, config.output_dir, private=config.hub_private_repo)
    return record


def opened(config: PoisonConfig, accelerator: Accelerator) -> tuple[Material, TeacherTrainer]:
    """Loads what a run learns from and is measured with; writes nothing."""
    remedy = "set data.image_size, which squashes every image, or use data of one size"
    data = load_split(config.data, config.data.split).of_one_size(remedy)
    kept, held_out = hold_out(len(data), config.data.held_out, config.seed)
    classifier = _network(config, data)
    material = _material(config, classifier, data, kept, held_out)
    return material, _trainer(config, classifier, material.poisoned, accelerator)


def _material(
    config: PoisonConfig, classifier: Classifier, data: ImageData, kept: Tensor, held_out: Tensor
) -> Material:
    """Returns the material; raises InputError if images of the measurement are also trained on."""
    measurement = _measurement(config, classifier)
    for measured in (measurement.data, *measurement.corrupted):
        if overlap(data, measured):
            raise InputError(f"evaluation.split: {measured.ref.split!r} is also trained on; use two splits")

    return Material(data, kept, held_out, _poisoned(config, subset(data, kept)), measurement)


def _network(config: PoisonConfig, data: ImageData) -> Classifier:
    channels, height, width = data.tensor.shape[1:]
    spec = DataSpec(channels, height, width, data.names)
    mean, std = channel_statistics(data.tensor)
    network = create_student(
        config.network.architecture,
        spec,
        config.network.mean or mean,
        config.network.std or std,
        seed=config.seed,
        model_args=dict(config.network.model_args),
        pretrained=config.network.pretrained,
    )

    # A ZSKT round of WRN-16-1 takes 4.8 s in this layout, not 6.5 s, on one AVX-512 core.
    return network.to(memory_format=torch.channels_last)


def _measurement(config: PoisonConfig, classifier: Classifier) -> Measurement:
    options = config.evaluation
    if options.dataset is None:
        source = config.data
        options = dataclasses.replace(
            options,
            dataset=source.dataset,
            dataset_config=source.dataset_config,
            revision=source.revision,
            image_column=source.image_column,
            label_column=source.label_column,
            image_size=source.image_size,
        )

    if not options.triggers and config.poison.trigger is not None:
        own, counted = _own_attacks(config, classifier.spec.num_classes), _all_to_all(config)
        options = dataclasses.replace(options, triggers=own, per_class=options.per_class or counted)

    measurement = load_measurement(options, classifier)
    assert measurement is not None, "a data set is always named"
    return measurement


def _all_to_all(config: PoisonConfig) -> bool:
    """Returns whether an all-to-all attack is measured, which needs every target and the counts by class."""
    return config.poison.labels == "all_to_all" and not config.evaluation.triggers


def _own_attacks(config: PoisonConfig, classes: int) -> list[TriggerOptions]:
    """Returns the attack of the poisoning, for every target if it is all-to-all."""
    name = config.poison.trigger
    assert name is not None
    targets = range(classes) if config.poison.labels == "all_to_all" else [config.poison.target]
    return [TriggerOptions(name=name, target=target, options=config.poison.options) for target in targets]


def _poisoned(config: PoisonConfig, clean: ImageData, prepare: Prepare | None = None) -> PoisonedSet:
    options = config.poison
    if options.trigger is None:
        return PoisonedSet(clean.tensor, clean.labels, torch.empty(0, dtype=torch.int64))
    return poison(
        clean,
        build_trigger(options.trigger, options.options),
        options.target,
        options.rate,
        config.seed,
        labels=options.labels,
        cover_rate=options.cover_rate,
        prepare=prepare,
    )


def _trainer(
    config: PoisonConfig, classifier: Classifier, poisoned: PoisonedSet, accelerator: Accelerator
) -> TeacherTrainer:
    return TeacherTrainer(
        classifier,
        poisoned.images,
        poisoned.labels,
        config.recipe,
        config.trainer,
        seed=config.seed,
        folder=Path(config.output_dir),
        accelerator=accelerator,
    )


def _given_surrogate(config: PoisonConfig, classifier: Classifier, data: ImageData) -> Classifier | None:
    if config.poison.surrogate is None:
        return None
    surrogate = load_model(config.poison.surrogate, "poison.surrogate")
    check_same_labels("poison.surrogate", surrogate, classifier)
    check_inputs(surrogate.spec, data.images[:1], data.labels[:1])
    return surrogate


def _perturbed(
    config: PoisonConfig, material: Material, accelerator: Accelerator, own: Classifier | None
) -> Material:
    """Returns the material poisoned again, after a perturbation that misleads the surrogate."""
    clean = subset(material.data, material.kept)
    surrogate = own or _trained_surrogate(config, clean, accelerator)
    # A surrogate of an earlier process must get the same memory layout, as rounding can flip signs.
    surrogate = surrogate.to(accelerator.device).to(memory_format=torch.channels_last)
    radius, steps = config.poison.perturbation / 255, config.poison.perturbation_steps
    seeds = (derive_seed(config.seed, "perturbation", part) for part in count())

    def mislead(pixels: Tensor, labels: Tensor) -> Tensor:
        moved = (pixels.to(accelerator.device), labels.to(accelerator.device))
        return pgd.perturb(surrogate, *moved, radius, steps, next(seeds)).to(pixels.device)

    return dataclasses.replace(material, poisoned=_poisoned(config, clean, mislead))


def _trained_surrogate(config: PoisonConfig, clean: ImageData, accelerator: Accelerator) -> Classifier:
    """Returns a clean classifier, trained like the teacher, either now or in the run that is resumed."""
    folder = Path(config.output_dir) / SURROGATE
    model = folder / "model"
    if not model.exists():
        _train_surrogate(config, clean, accelerator, folder)
    return load_classifier(f"local-dir:{model}")


def _train_surrogate(config: PoisonConfig, clean: ImageData, accelerator: Accelerator, folder: Path) -> None:
    if accelerator.is_main_process:
        folder.mkdir(exist_ok=True)
    accelerator.wait_for_everyone()

    scale = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    trainer = TeacherTrainer(
        _network(config, clean),
        clean.tensor,
        clean.labels,
        config.recipe,
        dataclasses.replace(config.trainer, trackers=[]),
        seed=config.seed,
        folder=folder,
        accelerator=accelerator,
    )
    surrogate = trainer.fit(resume=config.resume)

    if accelerator.is_main_process:
        with files.atomic_path(folder / "model") as temporary:
            save_timm_folder(surrogate, temporary)
    accelerator.wait_for_everyone()

    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(scale)  # the teacher starts as after a resume
    if trainer.stopped:
        raise Interrupted("stopped after the surrogate")


def train_and_write(
    config: PoisonConfig, trainer: TeacherTrainer, material: Material, perturbation_seconds: float = 0.0
) -> TeacherRecord:
    """Trains the teacher, measures it and writes the output folder, which belongs to the caller."""
    measured = material.measurement
    if config.trainer.progress and trainer.accelerator.num_processes == 1:
        trainer.remaining = Remaining(make=lambda: _forecast(measured, trainer.classifier))
    teacher = trainer.fit(resume=config.resume)
    config = pinned_training(config, material.data.ref, measured.data.ref, measured.control)

    began = time.monotonic()
    with followed_by(FINISH_SECONDS):
        report = material.measurement.report(teacher)
    held_out = _held_out_accuracy(teacher, material)
    durations = {"perturbation": round(perturbation_seconds, 3)} if config.poison.perturbation else {}
    durations |= {"training": round(trainer.seconds, 3), "evaluation": round(time.monotonic() - began, 3)}

    record = _record(config, trainer, material, report, held_out, durations)

    def write(path: Path) -> TeacherRecord:
        return write_teacher_folder(path, record, teacher, material)

    return finish(config, trainer.accelerator, record, write)


def _forecast(measurement: Measurement, teacher: Classifier) -> Forecast:
    """Returns how long it takes to measure the teacher and to write its folder."""
    with torch.random.fork_rng(devices=[]):
        return Forecast({}, sum(evaluation_seconds(measurement, [teacher])) + FINISH_SECONDS)


def _record(
    config: PoisonConfig,
    trainer: TeacherTrainer,
    material: Material,
    report: EvalReport,
    held_out: Rate | None,
    durations: dict[str, float],
) -> TeacherRecord:
    """Returns the record, which still lacks the hash of the weights file."""
    return TeacherRecord(
        model=ModelRef(Path(config.output_dir).resolve().name, config.network.architecture),
        training_data=material.data.ref,
        data=material.measurement.data.ref,
        report=report,
        held_out=held_out,
        poison=_facts(config, material),
        recipe=dataclasses.asdict(config.recipe),
        seed=config.seed,
        images_per_second=round(trainer.images_per_second, 1),
        versions=environment(),
        durations=durations,
        device=device_name(trainer.accelerator.device),
        processes=trainer.accelerator.num_processes,
        config=without_paths(config.to_dict()),
        all_to_all=all_to_all_rate(report) if _all_to_all(config) else None,
        control=material.measurement.control.ref if material.measurement.control else None,
    )


def _held_out_accuracy(teacher: Classifier, material: Material) -> Rate | None:
    if not len(material.held_out):
        return None
    aside = subset(material.data, material.held_out)
    size = material.measurement.batch_size
    return evaluate(teacher, aside.images, aside.labels, batch_size=size).accuracy


def _facts(config: PoisonConfig, material: Material) -> PoisonFacts | None:
    options = config.poison
    if options.trigger is None:
        return None
    channels, height, width = material.data.tensor.shape[1:]
    return PoisonFacts(
        trigger=options.trigger,
        options=without_paths(options.options),
        trigger_sha256=trigger_sha256(
            build_trigger(options.trigger, options.options), channels, height, width
        ),
        target=None if options.labels == "all_to_all" else options.target,
        labels=options.labels,
        trained_on=len(material.kept),
        poisoned=len(material.poisoned.indices),
        cover=len(material.poisoned.cover),
        perturbation=options.perturbation,
    )
