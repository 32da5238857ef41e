"""Forecasts what of a distillation is still to come, for the time left that is shown while it runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from abd_hub.config.budget import Costs, idle_rounds, late_rounds
from abd_hub.config.options import DistillConfig
from abd_hub.evaluation.measurement import Measurement
from abd_hub.models.classifier import Classifier
from abd_hub.runs.budget import (
    FINISH_SECONDS,
    evaluation_seconds,
    measured_costs,
    student_inspection_seconds,
    timing_config,
)
from abd_hub.training.pace import TimeLimit
from abd_hub.training.remaining import Forecast, Kind, Remaining
from abd_hub.training.trainer import Trainer

logger = logging.getLogger(__name__)


class Outlook:
    """Holds the seconds of the parts after the last round.

    Where some rounds of a run cost more than others, they are timed on a trainer that is thrown away. With a
    time limit they have been timed already. Several processes forecast nothing, because each would decide by
    its own clock.

    Args:
        config: of the run, with all choices made.
        classifiers: those that are measured at the end.
        measurement: None for no measurement.
        purification: report as JSON; None without one.
    """

    def __init__(
        self,
        config: DistillConfig,
        classifiers: list[Classifier],
        measurement: Measurement | None,
        purification: Mapping[str, Any] | None,
    ) -> None:
        self.config, self.classifiers, self.measurement = config, classifiers, measurement
        self.inspection = student_inspection_seconds(purification, classifiers, config.trainer)
        self.evaluation: list[float] = []
        """Holds the time of each classifier, and then of the control; empty before the forecast."""

    @property
    def after_evaluation(self) -> float:
        """Seconds from the end of the measurement to the end of the run."""
        return self.inspection + FINISH_SECONDS

    def follow(self, trainer: Trainer, make: Callable[[DistillConfig, Classifier], Trainer]) -> None:
        """Makes a trainer show the time that is left of the whole run.

        Args:
            trainer: of the run.
            make: makes a trainer for timing, for a configuration and a copy of the teacher.
        """
        if not self.config.trainer.progress:
            return
        idle, late = idle_rounds(trainer.method), late_rounds(self.config)
        limit = trainer.pace.limit

        def forecast() -> Forecast:
            with torch.random.fork_rng(devices=[]):
                self.evaluation = evaluation_seconds(self.measurement, self.classifiers)
                rounds = _of_limit(limit) if limit else self._timed(trainer, make) if idle or late else {}
            return Forecast(rounds, sum(self.evaluation) + self.after_evaluation)

        alone = trainer.accelerator.num_processes == 1
        trainer.remaining = Remaining(idle, late, forecast if alone else None)

    def _timed(
        self, trainer: Trainer, make: Callable[[DistillConfig, Classifier], Trainer]
    ) -> dict[Kind, float]:
        """Returns the seconds of the rounds of each kind; none where memory is too short for a second run."""
        config = self.config
        try:
            timed = make(timing_config(config), copy.deepcopy(trainer.teacher))
            timed.agreement.patches = None  # its time is no part of a round's
            timed.timed_round(idle_rounds(timed.method))
            costs = measured_costs(timed, late=late_rounds(config) > 0)
        except torch.OutOfMemoryError:
            logger.warning("no memory is left to time the rounds, so the time left is unknown at first")
            return {}
        update = config.synthesizer.timed()[1] * costs.update
        return _of_costs(Costs(update, costs.step, costs.late_step), config.synthesizer.student_steps)


def _of_costs(costs: Costs, steps: int) -> dict[Kind, float]:
    ordinary, late = costs.round(steps), costs.round(steps, late=True)
    return {"idle": costs.update, "ordinary": ordinary, "late": late}


def _of_limit(limit: TimeLimit) -> dict[Kind, float]:
    return {"ordinary": limit.round_seconds, "late": limit.late_seconds}
