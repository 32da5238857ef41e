"""Data and attacks for the measurements of a run, loaded and checked before any work begins."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abd_hub.config.options import (
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    without_paths,
)
from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError, MissingOptions
from abd_hub.core.records import EvalReport, SplitReport
from abd_hub.data.images import ImageData, load_images
from abd_hub.data.mixed import MixedImages
from abd_hub.evaluation.attacks import Attack, check_inputs
from abd_hub.evaluation.counting import Answers, evaluate, evaluate_answers
from abd_hub.evaluation.label_match import match_labels
from abd_hub.evaluation.rates import with_control
from abd_hub.learning.progress import followed_by
from abd_hub.models.classifier import Classifier, load_with
from abd_hub.models.preprocessing import Options
from abd_hub.training.trainer import Watch
from abd_hub.triggers import build_trigger

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """Measures classifiers with data and attacks that fit their labels."""

    data: ImageData
    """Holds the images to measure on."""
    attacks: tuple[Attack, ...]
    """Lists the attacks to measure."""
    batch_size: int
    """Sets the number of images in a forward pass."""
    control: Classifier | None = None
    """Holds a classifier without the backdoor, whose rates stand beside the rates of every attack."""
    corrupted: tuple[ImageData, ...] = ()
    """Holds further splits of the data set, on which only the clean accuracy is measured."""
    per_class: bool = False
    """Says whether to report the counts of every true class too."""

    def report(self, classifier: Classifier) -> EvalReport:
        """Measures clean accuracy and all attacks on the classifier's device, shared by all processes."""
        return self.reports([classifier])[0]

    def reports(self, classifiers: Sequence[Classifier], seconds: Sequence[float] = ()) -> list[EvalReport]:
        """Returns ``report`` of each classifier; the control is measured once for all.

        Args:
            classifiers: to be measured.
            seconds: about how long each takes, and then the control, for the time left that is shown.
        """
        reports = []
        began = time.monotonic()
        for index, classifier in enumerate(classifiers):
            # What has been measured so far corrects what is still expected.
            expected = sum(seconds[:index])
            slower = (time.monotonic() - began) / expected if expected else 1.0
            with followed_by(slower * sum(seconds[index + 1 :])):
                report = self._evaluate(classifier, per_class=self.per_class)
                reports.append(self._with_corrupted(classifier, report))
        if self.control is None:
            return reports

        control = self.control_report(classifiers[0].mean.device)
        return [with_control(report, control) for report in reports]

    def answers(self, classifier: Classifier) -> tuple[EvalReport, Answers]:
        """Returns ``report`` without the control, and the answer to each image."""
        report, answers = evaluate_answers(
            classifier,
            self.data.images,
            self.data.labels,
            self.attacks,
            batch_size=self.batch_size,
            per_class=self.per_class,
            progress=True,
        )
        return self._with_corrupted(classifier, report), answers

    def control_report(self, device: torch.device) -> EvalReport:
        """Returns the report of the control for ``with_control``; the control is measured on ``device``."""
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
            progress=True,
        )

    def _with_corrupted(self, classifier: Classifier, report: EvalReport) -> EvalReport:
        if not self.corrupted:
            return report
        splits = []
        for data in self.corrupted:
            clean = evaluate(classifier, data.images, data.labels, batch_size=self.batch_size, progress=True)
            splits.append(SplitReport(data.ref, clean.accuracy))
        return dataclasses.replace(report, corrupted=tuple(splits))


def load_model(options: ModelOptions, section: str | None = None) -> Classifier:
    """Loads the classifier that the options name, and freezes it.

    Args:
        options: of the model.
        section: section of the options on the command line, such as teacher, for messages. It is "" for
            options without a section, and None for Python's own names.

    Raises:
        InputError: see ``load_classifier``.
    """
    model = Options(
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
        crop_pct=options.crop_pct,
        crop_mode=options.crop_mode,
        blocks=options.blocks,
        model_args=options.model_args,
        allow_flagged=options.allow_flagged,
        max_size_gb=options.max_size_gb,
    )
    try:
        return load_with(model)
    except MissingOptions as error:
        if section is None:
            raise
        raise error.typed(f"{section}." if section else "") from error


def load_measurement(options: EvaluationOptions, classifier: Classifier) -> Measurement | None:
    """Loads the data and attacks to measure with; returns None where the options name no data set.

    Raises:
        InputError: data, trigger or target do not fit the classifier; this comes before any work.
    """
    if options.control is not None and not options.triggers:
        raise InputError(
            "evaluation.control: is measured on triggered images, but there are no triggers; set triggers too"
        )
    if options.dataset is None:
        _refuse_without_data(options)
        return None

    attacks = _attacks(options)
    data = in_classes_of(classifier, load_split(options, options.split))
    check_inputs(classifier.spec, data.images, data.labels, attacks)

    corrupted = tuple(_load_corrupted(options, split, data, classifier) for split in options.corrupted_splits)
    control = None if options.control is None else _load_control(options.control, classifier, data, attacks)
    return Measurement(data, attacks, options.batch_size, control, corrupted, options.per_class)


def _refuse_without_data(options: EvaluationOptions) -> None:
    if options.triggers:
        raise InputError("evaluation.dataset: is not set, but triggers need data; set dataset")
    if options.corrupted_splits:
        raise InputError("evaluation.dataset: is not set, but corrupted_splits need data; set dataset")
    if options.every:
        raise InputError("evaluation.dataset: is not set, but every needs data; set dataset")


def _attacks(evaluation: EvaluationOptions) -> tuple[Attack, ...]:
    """Returns an attack for each entry; entries that differ only in their target share the trigger."""
    built: dict[str, Trigger] = {}
    attacks = []
    for entry in evaluation.triggers:
        key = f"{entry.name} {json.dumps(entry.options, sort_keys=True, default=repr)}"
        if key not in built:
            built[key] = build_trigger(entry.name, entry.options)
        options = without_paths(entry.options)
        attacks.append(Attack(entry.name, entry.target, built[key], options, on=evaluation.trigger_on))
    return tuple(attacks)


def load_split(options: DataOptions, split: str) -> ImageData:
    """Loads a split of the data set that the options describe.

    Raises:
        InputError: see ``load_images``.
    """
    assert options.dataset is not None, "the caller has checked it"
    return load_images(
        options.dataset,
        split,
        revision=options.revision,
        config=options.dataset_config,
        image_column=options.image_column,
        label_column=options.label_column,
        limit=options.limit,
        image_size=options.image_size,
        max_size_gb=options.max_size_gb,
    )


def _load_corrupted(
    options: EvaluationOptions, split: str, data: ImageData, classifier: Classifier
) -> ImageData:
    try:
        corrupted = in_classes_of(classifier, load_split(options, split), aloud=False)
        check_inputs(classifier.spec, corrupted.images, corrupted.labels)
    except InputError as error:
        raise InputError(f"evaluation.corrupted_splits: {error}") from error
    return corrupted


def _load_control(
    options: ModelOptions, classifier: Classifier, data: ImageData, attacks: Sequence[Attack]
) -> Classifier:
    control = load_control(options, classifier)
    check_inputs(control.spec, data.images, data.labels, attacks)
    return control


def load_control(options: ModelOptions, classifier: Classifier) -> Classifier:
    """Loads a model without the backdoor, which must have the classifier's labels.

    Raises:
        InputError: it cannot be loaded, or its labels differ.
    """
    try:
        control = load_model(options)
    except InputError as error:
        raise InputError(f"evaluation.control: {error}") from error
    check_same_labels("evaluation.control", control, classifier)
    return control


def check_same_labels(field: str, one: Classifier, other: Classifier) -> None:
    """Refuses a classifier with other labels than the other one, because their rates would not be comparable.

    Args:
        field: name of the option that gave ``one``.
        one: classifier to check.
        other: classifier with the right labels in the right order.

    Raises:
        InputError: the labels differ; the message names ``field``.
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
                f"{field}: label {index} is {own!r} in {one.ref.id} but {theirs!r} in {other.ref.id}; use "
                "models with the same labels, or set labels if only their names differ"
            )


def in_classes_of(classifier: Classifier, data: ImageData, *, aloud: bool = True) -> ImageData:
    """Returns the data with the classifier's classes as labels, and says how they were matched.

    Raises:
        InputError: no match is safe, see ``match_labels``.
    """
    used = data.labels.bincount().nonzero().flatten().tolist()
    match = match_labels(data.names, classifier.spec.labels, used)
    if match.words and aloud:
        logger.warning("The classes of data and model are matched %s.", match.words)
    ref = dataclasses.replace(data.ref, classes=match.how)
    return dataclasses.replace(data, labels=match.apply(data.labels), names=classifier.spec.labels, ref=ref)


def make_watch(
    options: EvaluationOptions,
    measurement: Measurement | None,
    like: Classifier,
    rounds: int | Callable[[], int],
) -> Watch | None:
    """Returns a function that measures the student every ``options.every`` rounds and after the last one.

    Args:
        options: how often and on how many images to measure.
        measurement: data and attacks; None for no measurement.
        like: classifier with the student's labels and input.
        rounds: number of rounds of the run, or a function that returns it where it changes.

    Returns:
        The function, or None without data or with ``every`` 0.

    Raises:
        InputError: an attack has no image to use among so few.
    """
    if measurement is None or not options.every:
        return None

    images, labels = spread(measurement.data, options.every_images)
    try:
        check_inputs(like.spec, images, labels, measurement.attacks)
    except InputError as error:
        raise InputError(f"evaluation.every_images: {error}, or use more images") from error

    names = ["accuracy", *_asr_names(measurement.attacks)]

    def watch(done: int, student: Classifier) -> dict[str, float]:
        if done % options.every and done != (rounds if isinstance(rounds, int) else rounds()):
            return {}
        report = evaluate(student, images, labels, measurement.attacks, batch_size=options.batch_size)
        rates = [report.accuracy, *(attacked.asr for attacked in report.triggers)]
        return {name: rate.value for name, rate in zip(names, rates, strict=True)}

    return watch


def spread(data: ImageData, limit: int) -> tuple[Tensor | MixedImages, Tensor]:
    """Returns at most ``limit`` images and their labels, evenly spread over the data."""
    n = len(data.images)
    count = min(n, limit)
    # The first images of sorted data would all be of one class.
    places = torch.arange(count) * n // count
    return data.images[places], data.labels[places]


def _asr_names(attacks: Sequence[Attack]) -> list[str]:
    names: list[str] = []
    for attack in attacks:
        name = f"asr_{attack.name}_{attack.target}"
        # Two attacks may differ only in their options, so the number keeps their names apart.
        names.append(f"{name}_{len(names)}" if name in names else name)
    return names
