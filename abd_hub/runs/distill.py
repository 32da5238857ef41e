"""Carries a distillation from configuration to finished folder: load, check, distill, measure, write."""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import DistillConfig, plugin_name, without_paths
from abd_hub.core.errors import InputError, quiet_stops
from abd_hub.core.record_file import environment, record_to_json
from abd_hub.core.records import EvalReport, ModelRef, RunRecord
from abd_hub.data.images import ImageData, load_images, overlap
from abd_hub.evaluation.measurement import Measurement, load_measurement, load_model, make_watch
from abd_hub.evaluation.speed import speeds
from abd_hub.learning.progress import followed_by, lasting, shown
from abd_hub.models.classifier import Classifier
from abd_hub.models.view import in_channels
from abd_hub.models.weights import sized
from abd_hub.publish.card import render_card, run_pictures
from abd_hub.publish.push import plan_push, push_finished
from abd_hub.report.evidence import gather_images, write_evidence
from abd_hub.runs.agreement import held_back_patches, measured_agreement
from abd_hub.runs.budget import FINISH_SECONDS, Chooser, finished_config, timing_config
from abd_hub.runs.choosing import make_student, plan_text, with_device, with_teacher
from abd_hub.runs.finishing import finish, read_log, write_curves, write_images, write_model, write_results
from abd_hub.runs.forecast import Outlook
from abd_hub.runs.pinning import pinned_run
from abd_hub.runs.purified_teacher import inspect_student, inspection_precision, purify_teacher
from abd_hub.runs.raising import as_begun, with_raised_rounds
from abd_hub.runs.verdicts import write_verdicts
from abd_hub.training.pace import Pace
from abd_hub.training.running import claimed, device_name, make_accelerator
from abd_hub.training.trainer import Trainer

logger = logging.getLogger(__name__)

_CONVERTED_AT_ONCE = 4096
"""Images that become gray or color at once, as floats."""


def distill(
    config: DistillConfig, teacher: Classifier | None = None, *, began: float | None = None
) -> RunRecord:
    """Carries out one distillation and writes its output folder.

    Args:
        config: the configuration of the run.
        teacher: replaces the model that ``config.teacher`` names, for a network that only exists in
            Python; ``config.teacher.id`` is then only its name in the record.
        began: time of ``time.monotonic`` at which a budget began; by default it begins now.

    Returns:
        The record that metrics.json holds.

    Raises:
        InputError: the configuration is wrong, and nothing has been written; or the finished run could not
            be pushed.
        Interrupted: the run was stopped and can be resumed.
    """
    began = time.monotonic() if began is None else began
    with shown(config.trainer.progress), quiet_stops():
        return _distilled(config, teacher, began).at(config.output_dir)


def _distilled(config: DistillConfig, teacher: Classifier | None, began: float) -> RunRecord:
    config = with_device(asked := as_begun(config))
    accelerator = make_accelerator(config.trainer, Path(config.output_dir))
    destination = plan_push(config, config.output_dir, "student", accelerator)

    config, parts = opened(asked, with_raised_rounds(config, accelerator), teacher, accelerator)
    trainer = _first_trainer(asked, config, parts)

    try:
        with claimed(config.output_dir, config.resume, config.to_yaml(), accelerator):
            purification = purify_teacher(config, trainer.teacher, accelerator)
            loaded = parts.teacher.to(accelerator.device)
            run = Run(config, trainer, loaded, purification, parts.measurement, began)
            origin = {"teacher_from_python": True} if teacher else {}
            record = _run(_within_budget(run, parts), parts, origin)
    finally:
        if config.trainer.trackers:
            accelerator.end_training()

    push_finished(destination, config.output_dir, private=config.hub_private_repo)
    return record


@dataclass(frozen=True)
class Parts:
    """Holds what the trainers of one run share."""

    teacher: Classifier
    accelerator: Accelerator
    real: ImageData | None
    measurement: Measurement | None
    held_back: Tensor
    """Patches of photographs on which student and teacher are compared."""

    def trainer(
        self, config: DistillConfig, pace: Pace | None = None, teacher: Classifier | None = None
    ) -> Trainer:
        """Returns a trainer; ``teacher`` replaces the loaded one, of which it may otherwise have a copy."""
        if teacher is None:
            # The purification changes this copy in place, after the trainer has refused what does not fit.
            kept = config.purification == "none" and config.budget is None
            teacher = self.teacher if kept else copy.deepcopy(self.teacher)
        pace = pace or Pace(config.synthesizer.rounds, config.planned_rounds)
        return _trainer(config, teacher, self, pace)


def opened(
    asked: DistillConfig,
    config: DistillConfig,
    teacher: Classifier | None,
    accelerator: Accelerator,
) -> tuple[DistillConfig, Parts]:
    """Loads the parts of a run, and makes the choices that it leaves open.

    Args:
        asked: the run as the user wrote it.
        config: the same, with what follows from the device.
        teacher: replaces the model that the configuration names.
        accelerator: of all processes.
    """
    # The teacher is frozen before it runs, as a pass in train mode would change its running statistics.
    loaded = (teacher or load_model(config.teacher, "teacher")).freeze()
    config = with_teacher(asked, config, loaded)
    return config, _parts(config, loaded, accelerator)


def _first_trainer(asked: DistillConfig, config: DistillConfig, parts: Parts) -> Trainer:
    """Returns the trainer of a run or, for one with a budget, of its timing; then the plan is told."""
    trainer = parts.trainer(config if config.budget is None else timing_config(config))
    if parts.accelerator.is_main_process:
        logger.info("%s", plan_text(asked, config, parts.teacher))
    return trainer


def _parts(config: DistillConfig, teacher: Classifier, accelerator: Accelerator) -> Parts:
    measurement = load_measurement(config.evaluation, teacher)
    real = _real_images(config, measurement)
    held_back = held_back_patches(teacher.spec, accelerator.device)
    return Parts(teacher, accelerator, real, measurement, held_back)


@dataclass(frozen=True)
class Run:
    """Holds the parts of a distillation, from its first round to its folder."""

    config: DistillConfig
    trainer: Trainer
    teacher: Classifier
    """The teacher as it was loaded; that of the trainer may be its purified copy."""
    purification: Mapping[str, Any] | None
    """Report as JSON; None where no purification was wanted."""
    measurement: Measurement | None
    began: float
    """Time of ``time.monotonic`` at which this process began with the run."""

    @property
    def purified(self) -> bool:
        """Whether the student learned from a copy."""
        return self.purification is not None and bool(self.purification["changed"])

    def classifiers(self) -> dict[str, Classifier]:
        """Returns what is measured, by the name of its report."""
        copied = {"purified": self.trainer.teacher} if self.purified else {}
        return {"teacher": self.teacher, **copied, "student": self.trainer.student}


def _trainer(config: DistillConfig, teacher: Classifier, parts: Parts, pace: Pace) -> Trainer:
    accelerator, real = parts.accelerator, parts.real
    student = make_student(config, teacher)
    teacher.to(accelerator.device)
    watch = make_watch(config.evaluation, parts.measurement, teacher, lambda: trainer.method.rounds)
    trainer = Trainer(
        teacher,
        student,
        config.synthesizer,
        [defense.build(teacher, config.seed) for defense in config.defenses],
        config.trainer,
        seed=config.seed,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        images=_in_channels(real.tensor, teacher.spec.channels) if real else None,
        watch=watch,
        held_back=parts.held_back,
        pace=pace,
    )
    return trainer


def _within_budget(run: Run, parts: Parts) -> Run:
    """Returns the run with settings and a trainer that keep to its budget, if it has one."""
    config, accelerator = run.config, parts.accelerator
    if config.budget is None:
        return run

    def make(timed: DistillConfig) -> Trainer:
        known = timed == timing_config(config)
        trainer = run.trainer if known else parts.trainer(timed, teacher=run.trainer.teacher)
        trainer.agreement.patches = None  # its time is no part of a round's
        return trainer

    classifiers = list(run.classifiers().values())
    chooser = Chooser(config, make, classifiers, run.measurement, run.purification, run.began, accelerator)
    chosen, limit = chooser.choose()
    trainer = parts.trainer(chosen, Pace(chosen.synthesizer.rounds, (), limit, accelerator))
    purify_teacher(config, trainer.teacher, accelerator)
    return dataclasses.replace(run, config=chosen, trainer=trainer)


def _in_channels(images: Tensor, channels: int) -> Tensor:
    """Returns uint8 images, (n, C, H, W), in the teacher's channels: gray or color."""
    if images.shape[1] == channels:
        return images
    parts = [in_channels(part.float() / 255, channels) for part in torch.split(images, _CONVERTED_AT_ONCE)]
    return torch.cat([(part * 255).round().to(torch.uint8) for part in parts])


def _real_images(config: DistillConfig, measurement: Measurement | None) -> ImageData | None:
    source = config.synthesizer.image_source()
    if source is None:
        return None

    data = load_images(source.dataset, source.split, image_size=source.image_size)
    measured = [measurement.data, *measurement.corrupted] if measurement else []
    if any(overlap(data, other) for other in measured):
        raise InputError(f"split: {source.split!r} is used both to train and to measure; use two splits")
    remedy = "set the synthesizer's image_size, which squashes every image, or use data of one size"
    return data.of_one_size(remedy)


def _run(run: Run, parts: Parts, origin: dict[str, Any]) -> RunRecord:
    outlook = Outlook(run.config, list(run.classifiers().values()), run.measurement, run.purification)
    outlook.follow(run.trainer, lambda timed, teacher: parts.trainer(timed, teacher=teacher))
    run.trainer.fit(resume=run.config.resume)
    if run.config.budget is not None:
        run = dataclasses.replace(run, config=finished_config(run.config, run.trainer))

    if not origin:
        data, control = (
            (run.measurement.data.ref, run.measurement.control) if run.measurement else (None, None)
        )
        run = dataclasses.replace(run, config=pinned_run(run.config, run.teacher.ref, data, control))
    record = _record(run, *_measured(run, outlook), _inspected(run, outlook))
    real = parts.real
    record = dataclasses.replace(
        record, config={**record.config, **origin}, training_data=real.ref if real else None
    )
    limit = run.trainer.pace.limit
    if limit is not None:  # after the student's inspection, which takes time
        times = {"budget": limit.budget, "spent": round(limit.spent(), 3)}
        record = dataclasses.replace(record, durations={**record.durations, **times})
    seen = _images_for_evidence(run.trainer)

    def write(path: Path) -> RunRecord:
        return write_folder(path, record, run, seen)

    return finish(run.config, run.trainer.accelerator, record, write)


def _measured(run: Run, outlook: Outlook) -> tuple[dict[str, EvalReport | None], float]:
    """Returns a report for each name of ``Run.classifiers``, None without a measurement, and the seconds."""
    began = time.monotonic()
    models = run.classifiers()
    reports: dict[str, EvalReport | None] = dict.fromkeys(models)
    if run.measurement:
        with followed_by(outlook.after_evaluation):
            measured = run.measurement.reports(list(models.values()), outlook.evaluation)
        reports |= dict(zip(models, measured, strict=True))
    return reports, time.monotonic() - began


def _inspected(run: Run, outlook: Outlook) -> Mapping[str, Any] | None:
    """Returns the inspection of the student as JSON; None without one."""
    precision = inspection_precision(run.config.trainer)
    with lasting(outlook.inspection), followed_by(FINISH_SECONDS):
        return inspect_student(run.purification, run.trainer.student, run.config.seed, precision)


def _record(
    run: Run,
    reports: Mapping[str, EvalReport | None],
    seconds: float,
    inspected: Mapping[str, Any] | None,
) -> RunRecord:
    """Returns the record, which still lacks the hash of the weights file.

    Args:
        run: finished.
        reports: by the names of ``Run.classifiers``.
        seconds: duration of the measurement.
        inspected: the student's inspection as JSON; None without one.
    """
    config, trainer, measurement = run.config, run.trainer, run.measurement
    student = ModelRef(Path(config.output_dir).resolve().name, config.student.architecture)
    return RunRecord(
        method=plugin_name("synthesizers", config.synthesizer),
        teacher=sized(run.teacher.ref, run.teacher.model),
        student=sized(student, trainer.student.model),
        data=measurement.data.ref if measurement else None,
        teacher_report=reports["teacher"],
        student_report=reports["student"],
        purified_report=reports.get("purified"),
        defenses=tuple(defense.report() for defense in trainer.defenses),
        seed=config.seed,
        rounds=trainer.round,
        versions=environment(),
        durations=_durations(run, seconds),
        device=device_name(trainer.accelerator.device),
        processes=trainer.accelerator.num_processes,
        config=without_paths(config.to_dict()),
        control=measurement.control.ref if measurement and measurement.control else None,
        synthesis=trainer.synthesizer.facts() or None,
        purification=run.purification,
        student_inspection=inspected,
        agreement=measured_agreement(trainer.agreement),
        speed=speeds(teacher=run.teacher, student=trainer.student),
    )


def _durations(run: Run, seconds: float) -> dict[str, float]:
    """Returns the seconds by part; those of the purification only where there was one."""
    parts = {
        "distillation": round(run.trainer.seconds, 3),
        "distillation_processor": round(run.trainer.processor_seconds, 3),
        "evaluation": round(seconds, 3),
    }
    if run.purification is None:
        return parts
    inspections = [run.purification["inspected"], run.purification["reinspected"]]
    spent = run.purification["seconds"] + sum(one["seconds"] for one in inspections if one)
    return {"purification": round(spent, 3), **parts}


def _images_for_evidence(trainer: Trainer) -> Tensor | None:
    """Returns images of all processes, (N, C, H, W), for the defenses' evidence; None without defenses."""
    if not trainer.defenses:
        return None
    method = trainer.method
    real = method.image_source() is not None
    return gather_images(trainer.synthesizer, trainer.defense.drawn, method.rounds, real=real)


def write_folder(path: Path, record: RunRecord, run: Run, seen: Tensor | None = None) -> RunRecord:
    """Writes model, pictures and card, and last metrics.json, which marks the folder as finished.

    Args:
        path: of the folder.
        record: still without the hash of the weights file.
        run: finished.
        seen: images from which the defenses draw their evidence.

    Returns:
        The record, completed with the hash of the weights file.
    """
    student = run.trainer.student
    record = dataclasses.replace(record, student=write_model(path, student, record.student))
    _write_pictures(path, run)
    if seen is not None:
        _write_evidence(path, run.trainer, seen)

    labels, channels = student.spec.labels, student.spec.channels
    pictures = [(file, text) for file, text in run_pictures(record, labels) if (path / file).is_file()]
    card = render_card(record, labels=labels, pictures=pictures, channels=channels)
    write_results(path, card, record_to_json(record))
    return record


def _write_evidence(path: Path, trainer: Trainer, seen: Tensor) -> None:
    with torch.no_grad(), trainer.accelerator.autocast():
        left = [(defense.name, defense.evidence(seen)) for defense in trainer.defenses]
    write_evidence(path, seen, [(name, evidence) for name, evidence in left if evidence is not None])


def _write_pictures(path: Path, run: Run) -> None:
    """Writes what ``run_pictures`` lists, except for defenses and inspection; few points make no curves."""
    assert run.trainer.last_images is not None, "fit keeps the images of the last round"
    write_images(path, "training_images.png", run.trainer.last_images[:32].float().cpu())
    write_curves(path, [_without_seconds(row) for row in read_log(path)])
    if run.measurement:
        write_verdicts(path, run.measurement, run.classifiers())


def _without_seconds(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "seconds"}
