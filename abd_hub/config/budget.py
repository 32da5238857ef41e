"""Fits a distillation into a time: how many rounds fit, and which settings follow from their number."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from abd_hub.config.options import DistillConfig, TrainerOptions
from abd_hub.core.contracts import SynthesisMethod

FEWEST = 2
"""A run has at least so many rounds, because some defenses need an ordinary one before the last."""
MOST = 100_000_000
SHORT = 0.25
"""Settings become frugal where less than this share of the method's own rounds fits."""
LINES, CHECKPOINTS = 100, 10
"""Lines of the log and checkpoints of a run whose intervals follow from the budget."""


@dataclass(frozen=True)
class Costs:
    """Holds the seconds of the parts of a round."""

    update: float
    """Time of a round without the student's steps: the part of the synthesizer."""
    step: float
    """Time of one step of the student."""
    late_step: float
    """Time of a step in the last rounds, in which a defense costs more."""

    def round(self, steps: int, *, late: bool = False) -> float:
        """Returns the seconds of a round with so many steps."""
        return self.update + steps * (self.late_step if late else self.step)

    def run(self, config: DistillConfig) -> float:
        """Returns the seconds of all rounds of a run."""
        method = config.synthesizer
        learning = method.rounds - idle_rounds(method)
        late = min(late_rounds(config), learning)
        steps = method.student_steps
        ordinary = method.rounds * self.update + learning * steps * self.step
        return ordinary + late * steps * (self.late_step - self.step)


def idle_rounds(method: SynthesisMethod) -> int:
    """Returns the number of rounds before the student's first step."""
    return next((index for index in range(method.rounds) if method.steps_in(index)), 0)


def late_rounds(config: DistillConfig) -> int:
    """Returns how many of the last rounds cost more than the others."""
    return max((defense.late_rounds() for defense in config.defenses), default=0)


def with_rounds(config: DistillConfig, rounds: int) -> DistillConfig:
    """Returns the run with so many rounds, at least 2, and with what follows from them.

    Method and defenses name their fields. The intervals of log and checkpoints follow where they have their
    default values.
    """
    method = config.synthesizer
    coupled: dict[str, Any] = {"rounds": rounds, **method.for_rounds(rounds)}
    defenses = [dataclasses.replace(defense, **defense.for_rounds(rounds)) for defense in config.defenses]
    intervals = {"log_every": max(1, rounds // LINES), "checkpoint_every": max(1, rounds // CHECKPOINTS)}
    return dataclasses.replace(
        config,
        synthesizer=dataclasses.replace(method, **coupled),
        defenses=defenses,
        trainer=_where_default(config.trainer, TrainerOptions, intervals),
    )


def frugal(config: DistillConfig) -> DistillConfig:
    """Returns the run with the method's settings for too short a time, where fields have their defaults."""
    method = config.synthesizer
    changed = _where_default(method, type(method), type(method).frugal())
    return dataclasses.replace(config, synthesizer=changed)


def is_short(config: DistillConfig, costs: Costs, seconds: float) -> bool:
    """Returns whether far fewer rounds fit than the method has of its own."""
    return seconds < SHORT * costs.run(config)


def fitted(config: DistillConfig, costs: Costs, seconds: float) -> DistillConfig:
    """Returns the run with as many rounds as fit, at least 2."""
    fits, beyond = FEWEST, FEWEST + 1
    while beyond < MOST and costs.run(with_rounds(config, beyond)) <= seconds:
        fits, beyond = beyond, 2 * beyond
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if costs.run(with_rounds(config, middle)) <= seconds:
            fits = middle
        else:
            beyond = middle
    return with_rounds(config, fits)


def differences(before: Any, after: Any) -> dict[str, Any]:
    """Returns the fields of two settings of one class that differ, with the later value."""
    names = [field.name for field in dataclasses.fields(before)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def _where_default(settings: Any, kind: Any, values: dict[str, Any]) -> Any:
    """Returns the settings with the given values in the fields that have their default."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    kept = {name: value for name, value in values.items() if getattr(settings, name) == defaults[name]}
    return dataclasses.replace(settings, **kept)
