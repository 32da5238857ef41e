"""What a run measures, loaded and checked before any work begins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from abd_hub.config.options import (
    EvaluationOptions,
    ModelOptions,
    TriggerOptions,
    without_paths,
)
from abd_hub.config.poison import TrainingDataOptions
from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.core.records import EvalReport, SplitReport
from abd_hub.data.images import ImageData, load_images
from abd_hub.evaluation.counting import (
    Answers,
    Attack,
    check_inputs,
    evaluate,
    evaluate_answers,
)
from abd_hub.evaluation.rates import with_control
from abd_hub.models.classifier import Classifier, load_with
from abd_hub.models.preprocessing import Options
from abd_hub.training.trainer import Watch
from abd_hub.triggers import build_trigger


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
        reports = [self._with_corrupted(c, self._evaluate(c, per_class=self.per_class)) for c in classifiers]
        if self.control is None:
            return reports
        control = self.control_report(classifiers[0].mean.device)
        return [with_control(report, control) for report in reports]

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
        splits = tuple(
            SplitReport(
                data.ref, evaluate(classifier, data.images, data.labels, batch_size=self.batch_size).accuracy
            )
            for data in self.corrupted
        )
        return dataclasses.replace(report, corrupted=splits)


def load_model(options: ModelOptions) -> Classifier:
    """The frozen classifier that the options name.

    Raises:
        InputError: see ``load_classifier``.
    """
    wanted = Options(
        source=options.id,
        revision=options.revision,
        architecture=options.architecture,
        allow_pickle=options.allow_pickle,
        num_classes=options.num_classes,
        labels=options.labels,
        mean=options.mean,
        std=options.std,
        input_size=options.input_size,
        interpolation=options.interpolation,
        blocks=options.blocks,
        allow_flagged=options.allow_flagged,
        max_size_gb=options.max_size_gb,
    )
    return load_with(wanted)


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
    data = load_split(options, options.split)
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


def load_split(options: EvaluationOptions | TrainingDataOptions, split: str) -> ImageData:
    """A split of the data set that the options describe.

    Raises:
        InputError: see ``load_images``.
    """
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
        corrupted = load_split(options, split)
        check_inputs(classifier.spec, corrupted.images, corrupted.labels)
    except InputError as error:
        raise InputError(f"evaluation.corrupted_splits: {error}") from error
    if corrupted.names != data.names:
        raise InputError(
            f"evaluation.corrupted_splits: {split!r} has other labels than {options.split!r}; choose a split "
            "with the same labels"
        )
    return corrupted


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
    for index, (own, theirs) in enumerate(zip(labels, wanted, strict=True)):
        if own != theirs:
            raise InputError(
                f"{field}: label {index} of {one.ref.id} is {own!r} but {theirs!r} of {other.ref.id}; use "
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
        rates = [report.accuracy, *(attacked.asr for attacked in report.triggers)]
        return {name: rate.value for name, rate in zip(names, rates, strict=True)}

    return watch


def _asr_names(attacks: Sequence[Attack]) -> list[str]:
    names: list[str] = []
    for attack in attacks:
        name = f"asr_{attack.name}_{attack.target}"
        # two attacks may differ in their options only
        names.append(f"{name}_{len(names)}" if name in names else name)
    return names
