"""From a configuration to a finished output folder: load, check, distil, measure, write."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import (
    DistillConfig,
    EvaluationOptions,
    ModelOptions,
    TriggerOptions,
    plugin_name,
    without_paths,
)
from abd_hub.core import folder as files
from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.core.records import EvalReport, ModelRef, RunRecord, SplitReport
from abd_hub.data.images import ImageData, load_images
from abd_hub.evaluation.counting import (
    Answers,
    Attack,
    check_inputs,
    evaluate,
    evaluate_answers,
    with_control,
)
from abd_hub.models.classifier import Classifier, create_student, load_classifier, save_timm_folder
from abd_hub.models.weights import file_sha256
from abd_hub.publish.card import render_card, run_pictures, verdict_pictures
from abd_hub.publish.push import plan_push, push_finished
from abd_hub.report.evidence import gather_images, write_evidence
from abd_hub.report.figures import save_curves, save_samples, save_verdicts
from abd_hub.training.running import claimed, make_accelerator
from abd_hub.training.trainer import Trainer, Watch
from abd_hub.triggers import build_trigger

logger = logging.getLogger(__name__)

VERDICTS_SHOWN = 6


@dataclass(frozen=True)
class Measurement:
    """Data and attacks to measure classifiers with, checked against the number of classes."""

    data: ImageData
    attacks: tuple[Attack, ...]
    batch_size: int
    control: Classifier | None = None
    """Its rates stand beside those of every attack."""
    corrupted: tuple[ImageData, ...] = ()
    """Further splits of the data set: clean accuracy only."""
    per_class: bool = False

    def report(self, classifier: Classifier) -> EvalReport:
        """Clean accuracy and every attack, on the classifier's device, shared by all processes."""
        return self.reports([classifier])[0]

    def reports(self, classifiers: Sequence[Classifier]) -> list[EvalReport]:
        """``report`` of each; the control is measured once for all."""
        found = [self._with_corrupted(c, self._evaluate(c, per_class=self.per_class)) for c in classifiers]
        if self.control is None:
            return found
        control = self.control_report(classifiers[0].mean.device)
        return [with_control(report, control) for report in found]

    def answers(self, classifier: Classifier) -> tuple[EvalReport, Answers]:
        """``report``, as yet without the control, and the answer to each image."""
        report, answers = evaluate_answers(
            classifier,
            self.data.images,
            self.data.labels,
            self.attacks,
            batch_size=self.batch_size,
            per_class=self.per_class,
        )
        return self._with_corrupted(classifier, report), answers

    def control_report(self, device: torch.device) -> EvalReport:
        """Of the control itself, measured on ``device``; for ``with_control``."""
        assert self.control is not None, "asked for without a control"
        return self._evaluate(self.control.to(device), per_class=False)

    def _evaluate(self, classifier: Classifier, *, per_class: bool) -> EvalReport:
        data = self.data
        return evaluate(
            classifier,
            data.images,
            data.labels,
            self.attacks,
            batch_size=self.batch_size,
            per_class=per_class,
        )

    def _with_corrupted(self, classifier: Classifier, report: EvalReport) -> EvalReport:
        if not self.corrupted:
            return report
        found = tuple(
            SplitReport(
                data.ref, evaluate(classifier, data.images, data.labels, batch_size=self.batch_size).accuracy
            )
            for data in self.corrupted
        )
        return dataclasses.replace(report, corrupted=found)


def load_model(options: ModelOptions) -> Classifier:
    """The frozen classifier that the options name.

    Raises:
        InputError: see ``load_classifier``.
    """
    settings = dataclasses.asdict(options)
    return load_classifier(settings.pop("id"), **settings)


def load_measurement(options: EvaluationOptions, classifier: Classifier) -> Measurement | None:
    """The data and attacks to measure with; None where no data set is named.

    Raises:
        InputError: data, trigger or target do not fit the classifier; nothing has been computed yet.
    """
    if options.control is not None and not options.triggers:
        raise InputError(
            "evaluation.control: a control is measured on triggered images; give triggers as well"
        )
    if options.dataset is None:
        _refuse_without_data(options)
        return None
    attacks = _attacks(options.triggers)
    data = _load_split(options, options.split)
    _check_labels(data.names, classifier)
    check_inputs(classifier.spec, data.images, data.labels, attacks)
    corrupted = tuple(_load_corrupted(options, split, data, classifier) for split in options.corrupted_splits)
    control = None if options.control is None else _load_control(options.control, classifier, data)
    return Measurement(data, attacks, options.batch_size, control, corrupted, options.per_class)


def _refuse_without_data(options: EvaluationOptions) -> None:
    if options.triggers:
        raise InputError("evaluation.dataset: triggers are given but no data set to measure them on")
    if options.corrupted_splits:
        raise InputError("evaluation.dataset: corrupted_splits are given but no data set they belong to")
    if options.every:
        raise InputError("evaluation.dataset: every is given but no data set to measure on")


def _attacks(wanted: Sequence[TriggerOptions]) -> tuple[Attack, ...]:
    """One an entry; entries that differ only in their target share the trigger."""
    built: dict[str, Trigger] = {}
    attacks = []
    for entry in wanted:
        key = f"{entry.name} {json.dumps(entry.options, sort_keys=True, default=repr)}"
        if key not in built:
            built[key] = build_trigger(entry.name, entry.options)
        attacks.append(Attack(entry.name, entry.target, built[key], without_paths(entry.options)))
    return tuple(attacks)


def _load_split(options: EvaluationOptions, split: str) -> ImageData:
    assert options.dataset is not None, "the caller has looked"
    return load_images(
        options.dataset,
        split,
        revision=options.revision,
        config=options.dataset_config,
        image_column=options.image_column,
        label_column=options.label_column,
        limit=options.limit,
        image_size=options.image_size,
    )


def _load_corrupted(
    options: EvaluationOptions, split: str, data: ImageData, classifier: Classifier
) -> ImageData:
    try:
        found = _load_split(options, split)
        check_inputs(classifier.spec, found.images, found.labels)
    except InputError as error:
        raise InputError(f"evaluation.corrupted_splits: {error}") from error
    if found.names != data.names:
        raise InputError(
            f"evaluation.corrupted_splits: {split!r} has other labels than {options.split!r}; choose a split "
            "with the same labels"
        )
    return found


def _load_control(options: ModelOptions, classifier: Classifier, data: ImageData) -> Classifier:
    try:
        control = load_model(options)
    except InputError as error:
        raise InputError(f"evaluation.control: {error}") from error
    check_same_labels("evaluation.control", control, classifier)
    check_inputs(control.spec, data.images, data.labels)
    return control


def check_same_labels(field: str, one: Classifier, other: Classifier) -> None:
    """Refuses a classifier whose label i is not the other's label i: rates of both would not compare.

    Raises:
        InputError: naming ``field``.
    """
    labels, wanted = one.spec.labels, other.spec.labels
    if len(labels) != len(wanted):
        raise InputError(
            f"{field}: {one.ref.id} has {len(labels)} classes but {other.ref.id} {len(wanted)}; use models "
            "with the same labels"
        )
    for index, (found, label) in enumerate(zip(labels, wanted, strict=True)):
        if found != label:
            raise InputError(
                f"{field}: label {index} of {one.ref.id} is {found!r} but {label!r} of {other.ref.id}; use "
                "models with the same labels, or give labels where only their names differ"
            )


def _check_labels(names: tuple[str, ...], classifier: Classifier) -> None:
    """Rates over labels that mean something else would look like numbers and be none."""
    labels = classifier.spec.labels
    if len(names) != len(labels):
        raise InputError(
            f"evaluation.dataset: it has {len(names)} classes but the classifier {len(labels)}; use data and "
            "a classifier with the same labels"
        )
    if sorted(names) == sorted(labels) and names != labels:
        raise InputError(
            "evaluation.dataset: it has the classifier's labels in another order; give teacher.labels in the "
            "order of the data"
        )


def distill(config: DistillConfig, teacher: Classifier | None = None) -> RunRecord:
    """Carries out one distillation and writes its output folder.

    Args:
        config: what to do.
        teacher: takes the place of what ``config.teacher`` names, for a network that only exists in
            Python; ``config.teacher.id`` is then only its name in the record.

    Returns:
        The record that metrics.json holds.

    Raises:
        InputError: something in the configuration is wrong, and nothing has been written; or the finished
            run could not be pushed.
        Interrupted: the run was stopped and can be resumed.
    """
    accelerator = make_accelerator(config.trainer, Path(config.output_dir))
    destination = plan_push(config, config.output_dir, "student", accelerator)
    # Frozen before anything runs it: a pass in train mode would change its running statistics.
    given = {"teacher_from_python": True} if teacher else {}
    teacher = (teacher or load_model(config.teacher)).freeze()
    measurement = load_measurement(config.evaluation, teacher)
    real = _real_images(config, measurement)
    watch = make_watch(config.evaluation, measurement, teacher, config.synthesizer.rounds)
    trainer = _trainer(config, teacher, accelerator, real, watch)
    try:
        with claimed(config.output_dir, config.resume, config.to_yaml(), accelerator):
            record = _run(config, trainer, measurement, real, given)
    finally:
        if config.trainer.trackers:
            accelerator.end_training()
    push_finished(destination, config.output_dir, private=config.hub_private_repo)
    return record


def make_watch(
    options: EvaluationOptions, measurement: Measurement | None, like: Classifier, rounds: int
) -> Watch | None:
    """Measures the student every so many rounds and after the last; None where it is not asked for.

    Args:
        options: how often and on how many images.
        measurement: data and attacks.
        like: has the student's labels and input.
        rounds: of the run.

    Raises:
        InputError: an attack finds no image among so few.
    """
    if measurement is None or not options.every:
        return None
    n = len(measurement.data.images)
    count = min(n, options.every_images)
    # Evenly spread: the first images of data sorted by class would all be of one.
    places = torch.arange(count) * n // count
    images, labels = measurement.data.images[places], measurement.data.labels[places]
    try:
        check_inputs(like.spec, images, labels, measurement.attacks)
    except InputError as error:
        raise InputError(f"evaluation.every_images: {error}; use more images") from error
    names = ["accuracy", *_asr_names(measurement.attacks)]

    def watch(done: int, student: Classifier) -> dict[str, float]:
        if done % options.every and done != rounds:
            return {}
        report = evaluate(student, images, labels, measurement.attacks, batch_size=options.batch_size)
        rates = [report.accuracy, *(found.asr for found in report.triggers)]
        return {name: rate.value for name, rate in zip(names, rates, strict=True)}

    return watch


def _asr_names(attacks: Sequence[Attack]) -> list[str]:
    names: list[str] = []
    for attack in attacks:
        name = f"asr_{attack.name}_{attack.target}"
        # two attacks may differ in their options only
        names.append(f"{name}_{len(names)}" if name in names else name)
    return names


def _trainer(
    config: DistillConfig,
    teacher: Classifier,
    accelerator: Accelerator,
    real: ImageData | None,
    watch: Watch | None,
) -> Trainer:
    student = create_student(
        config.student.architecture,
        teacher.spec,
        teacher.image_mean.flatten().tolist(),
        teacher.image_std.flatten().tolist(),
        seed=config.seed,
        model_args=dict(config.student.model_args),
        pretrained=config.student.pretrained,
    )
    teacher.to(accelerator.device)
    return Trainer(
        teacher,
        student,
        config.synthesizer,
        [defense.build(teacher, config.seed) for defense in config.defenses],
        config.trainer,
        seed=config.seed,
        folder=Path(config.output_dir),
        accelerator=accelerator,
        images=real.images if real else None,
        watch=watch,
    )


def _real_images(config: DistillConfig, measurement: Measurement | None) -> ImageData | None:
    source = config.synthesizer.image_source()
    if source is None:
        return None
    data = load_images(source.dataset, source.split, image_size=source.image_size)
    measured = [measurement.data, *measurement.corrupted] if measurement else []
    if any(overlap(data, other) for other in measured):
        raise InputError(f"split: {source.split!r} is used to train and to measure; choose two splits")
    return data


def overlap(one: ImageData, other: ImageData) -> bool:
    """Whether two loaded splits are parts of the same split, by name, or hold the same images."""
    names = [(data.ref.id, data.ref.split.partition("[")[0]) for data in (one, other)]
    return names[0] == names[1] or one.ref.fingerprint == other.ref.fingerprint


def _run(
    config: DistillConfig,
    trainer: Trainer,
    measurement: Measurement | None,
    real: ImageData | None,
    given: dict[str, Any],
) -> RunRecord:
    student = trainer.fit(resume=config.resume)
    began = time.monotonic()
    teacher_report, student_report = (
        measurement.reports([trainer.teacher, student]) if measurement else (None, None)
    )
    record = RunRecord(
        method=plugin_name("synthesizers", config.synthesizer),
        teacher=trainer.teacher.ref,
        student=ModelRef(Path(config.output_dir).resolve().name, config.student.architecture),
        data=measurement.data.ref if measurement else None,
        teacher_report=teacher_report,
        student_report=student_report,
        defenses=tuple(defense.report() for defense in trainer.defenses),
        seed=config.seed,
        rounds=trainer.round,
        versions=files.environment(),
        durations={
            "distillation": round(trainer.seconds, 3),
            "distillation_processor": round(trainer.processor_seconds, 3),
            "evaluation": round(time.monotonic() - began, 3),
        },
        device=device_name(trainer.accelerator.device),
        processes=trainer.accelerator.num_processes,
        config=without_paths(config.to_dict()) | given,
        training_data=real.ref if real else None,
        control=measurement.control.ref if measurement and measurement.control else None,
        synthesis=trainer.synthesizer.facts() or None,
    )
    seen = _images_for_evidence(trainer)
    if trainer.accelerator.is_main_process:
        record = write_folder(Path(config.output_dir), record, trainer, measurement, seen)
        # Last: until the record is there, a resume compares its paths. What is finished is shared.
        files.write_config(config.output_dir, config.to_yaml(shared=True))
    trainer.accelerator.wait_for_everyone()
    return record


def _images_for_evidence(trainer: Trainer) -> Tensor | None:
    """What the defences look at once more, (N, C, H, W); all processes. None without defences."""
    if not trainer.defenses:
        return None
    method = trainer.method
    real = method.image_source() is not None
    return gather_images(trainer.synthesizer, trainer.defense.drawn, method.rounds, real=real)


def write_folder(
    path: Path,
    record: RunRecord,
    trainer: Trainer,
    measurement: Measurement | None,
    seen: Tensor | None = None,
) -> RunRecord:
    """Writes model, pictures, card and, last, metrics.json, which marks the folder as finished.

    Args:
        path: of the folder.
        record: as yet without the hash of the weights file.
        trainer: finished.
        measurement: data and attacks for the verdicts.
        seen: images that the defences are asked about.

    Returns:
        The record, completed with the hash of the weights file.
    """
    files.clean_temporaries(path)
    save_timm_folder(trainer.student, path)
    student = dataclasses.replace(record.student, sha256=file_sha256([path / "model.safetensors"]))
    record = dataclasses.replace(record, student=student)
    _write_pictures(path, trainer, measurement)
    if seen is not None:
        _write_evidence(path, trainer, seen)
    labels = trainer.student.spec.labels
    channels = trainer.student.spec.channels
    pictures = [(file, text) for file, text in run_pictures(record, labels) if (path / file).is_file()]
    card = render_card(record, labels=labels, pictures=pictures, channels=channels)
    files.write_text(path / "README.md", card)
    files.write_json(path / "metrics.json", files.record_to_json(record))
    return record


def _write_evidence(path: Path, trainer: Trainer, seen: Tensor) -> None:
    with torch.no_grad(), trainer.accelerator.autocast():
        asked = [(defense.name, defense.evidence(seen)) for defense in trainer.defenses]
    write_evidence(path, seen, [(name, left) for name, left in asked if left is not None])


def _write_pictures(path: Path, trainer: Trainer, measurement: Measurement | None) -> None:
    """The files that ``run_pictures`` lists, but for those of the defences."""
    (path / "samples").mkdir(exist_ok=True)
    assert trainer.last_images is not None, "fit keeps the images of the last round"
    with files.atomic_path(path / "samples" / "training_images.png") as temporary:
        save_samples(trainer.last_images[:32].float().cpu(), temporary)
    log = [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    with files.atomic_path(path / "samples" / "curves.png") as temporary:
        save_curves([{k: v for k, v in row.items() if k != "seconds"} for row in log], temporary)
    if measurement:
        write_verdicts(path, measurement, {"teacher": trainer.teacher, "student": trainer.student})


def write_verdicts(
    path: Path, measurement: Measurement, models: dict[str, Classifier]
) -> list[tuple[str, str]]:
    """A picture a trigger: clean and triggered images with the verdicts of the models.

    Returns:
        (file, caption) of each, relative to ``path``.
    """
    labels = next(iter(models.values())).spec.labels
    listed = verdict_pictures([(attack.name, attack.target) for attack in measurement.attacks], labels)
    for (file, _), attack in zip(listed, measurement.attacks, strict=True):
        _write_verdict(path / file, measurement, attack, models)
    return listed


def _write_verdict(
    file: Path, measurement: Measurement, attack: Attack, models: dict[str, Classifier]
) -> None:
    data = measurement.data
    shown = torch.nonzero(data.labels != attack.target).flatten()[:VERDICTS_SHOWN]
    clean = data.pixels(shown)
    triggered = attack.trigger(clean)
    names = next(iter(models.values())).spec.labels
    rows = {
        name: (_verdicts(model, clean, names), _verdicts(model, triggered, names))
        for name, model in models.items()
    }
    true = [names[int(label)] for label in data.labels[shown]]
    with files.atomic_path(file) as temporary:
        save_verdicts(clean, triggered, rows, true, temporary)


@torch.no_grad()
def _verdicts(model: Classifier, pixels: Tensor, names: Sequence[str]) -> list[str]:
    chosen = model.eval()(pixels.to(model.mean.device)).argmax(dim=1).tolist()
    return [names[label] for label in chosen]


def device_name(device: torch.device) -> str:
    """The device as the record names it."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{device.type} ({name(device)})" if name else device.type
