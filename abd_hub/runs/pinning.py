"""This module puts the commits that a run has used into its configuration, for its record and its card.

The configuration of an unfinished run stays as it was given, because a resume compares it.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from abd_hub.config.options import DataOptions, DistillConfig, EvaluationOptions, ModelOptions
from abd_hub.config.poison import PoisonConfig
from abd_hub.core.records import DataRef, ModelRef
from abd_hub.models.classifier import Classifier

Data = TypeVar("Data", bound=DataOptions)


def pinned_run(
    config: DistillConfig, teacher: ModelRef, data: DataRef | None, control: Classifier | None
) -> DistillConfig:
    """Returns a configuration that repeats this distillation.

    Args:
        config: as it was given.
        teacher: the model that was distilled.
        data: the data of the measurement; None without one.
        control: of the measurement; None without one.
    """
    evaluation = _pinned_evaluation(config.evaluation, data, control)
    return dataclasses.replace(config, teacher=_pinned_model(config.teacher, teacher), evaluation=evaluation)


def pinned_training(
    config: PoisonConfig, trained_on: DataRef, measured_on: DataRef, control: Classifier | None
) -> PoisonConfig:
    """Returns a configuration that repeats this training of a teacher."""
    evaluation = _pinned_evaluation(config.evaluation, measured_on, control)
    return dataclasses.replace(config, data=_pinned_data(config.data, trained_on), evaluation=evaluation)


def _pinned_model(options: ModelOptions, ref: ModelRef) -> ModelOptions:
    if ref.revision is None:
        return options
    name = options.id.partition("@")[0]
    if "/" not in name:  # a name of timm, whose weights lie in a repository of the Hub
        name = f"hf-hub:{ref.id}"
    return dataclasses.replace(options, id=name, revision=ref.revision)


def _pinned_data(options: Data, ref: DataRef | None) -> Data:
    if ref is None or ref.revision is None or options.dataset is None:
        return options
    return dataclasses.replace(options, revision=ref.revision)


def _pinned_evaluation(
    options: EvaluationOptions, data: DataRef | None, control: Classifier | None
) -> EvaluationOptions:
    options = _pinned_data(options, data)
    if options.control is None or control is None:
        return options
    return dataclasses.replace(options, control=_pinned_model(options.control, control.ref))
