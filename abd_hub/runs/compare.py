"""Compares models on the same images, by a table, a picture and paired tests of the first with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from torch import Tensor

from abd_hub.config.options import EvaluationOptions
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataRef, EvalReport, ModelRef
from abd_hub.evaluation.attacks import Attack, check_inputs
from abd_hub.evaluation.counting import Answers
from abd_hub.evaluation.measurement import Measurement, check_same_labels, load_measurement
from abd_hub.evaluation.paired import PairedTest, compare_answers
from abd_hub.evaluation.rates import with_control
from abd_hub.evaluation.tables import format_aligned, format_reports
from abd_hub.models.classifier import Classifier
from abd_hub.report.figures import save_accuracy_asr_panels


@dataclass(frozen=True)
class ComparedModel:
    """Holds one of the models with its measurement."""

    name: str
    """Names the model in table and picture."""
    model: ModelRef
    report: EvalReport


@dataclass(frozen=True)
class AttackPair:
    """Holds the paired test of one attack."""

    trigger: str
    target: int
    test: PairedTest
    """Tests success, where a model reads a triggered image of another class as the target."""


@dataclass(frozen=True)
class ComparedPair:
    """Compares two models on the same images; the p-values are not corrected for the number of tests."""

    first: str
    second: str
    clean: PairedTest
    """Tests whether a model gives a clean image its true label."""
    attacks: tuple[AttackPair, ...] = ()
    """Holds one test for each attack, in the order of the reports."""


@dataclass(frozen=True)
class Comparison:
    """Holds everything that ``abd-hub compare`` prints."""

    data: DataRef
    control: ComparedModel | None
    models: tuple[ComparedModel, ...]
    pairs: tuple[ComparedPair, ...]
    """Compares the first model with each of the others."""


def compare(
    models: Mapping[str, Classifier],
    options: EvaluationOptions,
    *,
    device: torch.device | str | None = None,
) -> Comparison:
    """Measures every model on the same images, loaded once, and tests the first against each of the others.

    Args:
        models: name to classifier, at least one.
        options: data, attacks and control.
        device: where to compute, one model after the other; by default each model computes where it lies.

    Raises:
        InputError: the data set is missing, the labels differ, or data and attacks do not fit the models;
            these are raised before any work. See ``evaluate`` for the later ones.
    """
    measurement = _prepare(list(models.values()), options)
    control = _measure_control(measurement, device)

    rows, answers = [], []
    for name, model in models.items():
        report, answered = _measure(measurement, model, device)
        if control is not None:
            report = with_control(report, control.report)
        rows.append(ComparedModel(name, model.ref, report))
        answers.append((name, answered))

    pairs = tuple(_pair(measurement, answers[0], other) for other in answers[1:])
    return Comparison(measurement.data.ref, control, tuple(rows), pairs)


def format_comparison(found: Comparison) -> str:
    """Returns the tables of ``evaluate`` for all models, the control's accuracy, and the paired tests."""
    parts = [format_reports([(row.name, row.report) for row in found.models])]
    if found.pairs:
        parts.append(_format_pairs(found.pairs))
    return "\n\n".join(parts)


def save_picture(found: Comparison, path: Path) -> None:
    """Writes a PNG of accuracy against ASR of all models and the control, with a panel for each attack.

    Raises:
        InputError: no attack was measured.
    """
    attacks = found.models[0].report.triggers
    if not attacks:
        raise InputError("picture: no attack was measured; give a trigger and a target")

    rows = [*found.models, *([found.control] if found.control else [])]
    panels = [
        (
            f"{attack.trigger} to label {attack.target}",
            [(row.name, row.report.accuracy, row.report.triggers[place].asr) for row in rows],
        )
        for place, attack in enumerate(attacks)
    ]
    save_accuracy_asr_panels(panels, path)


def short_names(ids: Sequence[str]) -> list[str]:
    """Returns the last parts of paths and ids, as many as make every name unique."""
    parts = [
        PurePath(name.removeprefix("local-dir:").removeprefix("hf-hub:")).parts or (name,) for name in ids
    ]

    for count in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(ids):
            return names

    return list(ids)


def _prepare(models: Sequence[Classifier], options: EvaluationOptions) -> Measurement:
    """Returns the measurement, after its data and attacks are checked against every model."""
    if not models:
        raise InputError("MODEL: no model is given; give at least one")
    for other in models[1:]:
        check_same_labels("MODEL", other, models[0])

    measurement = load_measurement(options, models[0])
    if measurement is None:
        raise InputError("dataset: is missing; give the Hub id or folder of the images")
    for other in models[1:]:
        check_inputs(other.spec, measurement.data.images, measurement.data.labels, measurement.attacks)

    return measurement


def _measure_control(measurement: Measurement, device: torch.device | str | None) -> ComparedModel | None:
    control = measurement.control
    if control is None:
        return None

    home = control.mean.device
    report = measurement.control_report(home if device is None else torch.device(device))
    control.to(home)
    return ComparedModel("control", control.ref, report)


def _measure(
    measurement: Measurement, model: Classifier, device: torch.device | str | None
) -> tuple[EvalReport, Answers]:
    home = model.mean.device
    try:
        return measurement.answers(model if device is None else model.to(device))
    finally:
        model.to(home)  # so that the device holds one model at a time


def _pair(measurement: Measurement, first: tuple[str, Answers], second: tuple[str, Answers]) -> ComparedPair:
    truth = measurement.data.labels
    clean = compare_answers(first[1].clean == truth, second[1].clean == truth)
    triggered = zip(measurement.attacks, first[1].triggered, second[1].triggered, strict=True)
    attacks = tuple(
        AttackPair(attack.name, attack.target, _success_test(attack, truth, one, other))
        for attack, one, other in triggered
    )

    return ComparedPair(first[0], second[0], clean, attacks)


def _success_test(attack: Attack, truth: Tensor, first: Tensor, second: Tensor) -> PairedTest:
    others = truth != attack.target
    return compare_answers(first[others] == attack.target, second[others] == attack.target)


def _format_pairs(pairs: Sequence[ComparedPair]) -> str:
    lines = [["first", "second", "McNemar's test of", "n", "first only", "second only", "p", "form"]]
    for pair in pairs:
        tests = [("right when clean", pair.clean)]
        tests += [(f"{attack.trigger} to {attack.target} succeeds", attack.test) for attack in pair.attacks]

        start = [pair.first, pair.second]
        for what, test in tests:
            counts = [str(test.n), str(test.first_only), str(test.second_only)]
            lines.append([*start, what, *counts, f"{test.p_value:.2g}", test.method])
            start = ["", ""]
    return format_aligned(lines)
