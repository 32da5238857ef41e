"""Chooses the settings of a run for its budget: times this machine, and keeps time for the end of the run.

The choice goes into ``budget.json`` of the folder, so that a run that is resumed keeps it. The finished run's
config.yaml holds all numbers, and no budget: it repeats the run to the bit.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from abd_hub.config.budget import (
    Costs,
    differences,
    fitted,
    frugal,
    idle_rounds,
    is_short,
    late_rounds,
    with_rounds,
)
from abd_hub.config.durations import format_duration, parse_duration
from abd_hub.config.options import DistillConfig, TrainerOptions, plugin_name
from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.evaluation.measurement import Measurement
from abd_hub.learning.modes import in_eval_mode
from abd_hub.learning.precision import Precision, in_precision
from abd_hub.learning.progress import shown
from abd_hub.models.classifier import Classifier
from abd_hub.runs.purified_teacher import inspection_precision
from abd_hub.training.pace import TimeLimit
from abd_hub.training.trainer import Trainer

logger = logging.getLogger(__name__)

BUDGET_FILE = "budget.json"
MANY = 10_000
"""Rounds of a trainer on which rounds are timed."""
FINISH_SECONDS = 3.0
"""Time for pictures, card and record at the end, on a core of 2020."""
SAMPLE = 128
"""Images on which the evaluation is timed; with 64, a WRN-16-1 seems a fifth slower than with its 10,000."""
FEW_ROUNDS = 50
"""Where even fewer rounds of one step would fit, no time is left to time more of them: the run is frugal."""
_FEW_STEPS, _MORE_STEPS, _REPEATS = 1, 4, 2
_PASSED = 32
"""Images of a pass that is timed."""

Make = Callable[[DistillConfig], Trainer]
"""Type of a function that makes a trainer for timing, whose teacher is the run's."""


def timing_config(config: DistillConfig) -> DistillConfig:
    """Returns the run with settings for timing its rounds, of which there are many."""
    many = with_rounds(config, MANY)
    method = dataclasses.replace(many.synthesizer.timed()[0], student_steps=_FEW_STEPS)
    return dataclasses.replace(many, synthesizer=method)


@dataclass(frozen=True)
class Chooser:
    """Chooses the settings of one run; all processes make one, and the main process decides."""

    config: DistillConfig
    """The configuration as it was given."""
    make: Make
    classifiers: list[Classifier]
    """Those that are measured at the end, in the order of their reports."""
    measurement: Measurement | None
    purification: Mapping[str, Any] | None
    """Report as JSON; None without one."""
    began: float
    """Time of ``time.monotonic`` at which this process began with the run."""
    accelerator: Accelerator

    def choose(self) -> tuple[DistillConfig, TimeLimit]:
        """Returns the configuration and the time limit of the run; a resumed run keeps its choice."""
        config, file = self.config, Path(self.config.output_dir) / BUDGET_FILE
        stored = self._shared(files.read_json(file) if config.resume and file.is_file() else None)
        if stored is not None:
            return _restored(config, stored, self.began)

        assert config.budget is not None, "only a run with a budget chooses"
        budget = parse_duration(config.budget, "budget")
        processor, wall = time.process_time(), time.monotonic()
        kept = sum(evaluation_seconds(self.measurement, self.classifiers))
        kept += student_inspection_seconds(self.purification, self.classifiers, config.trainer)
        costs = self._costs(config, budget - kept - self._spent())
        # Others on the machine slow the end down as they do the rounds that were timed.
        slower = (time.monotonic() - wall) / (time.process_time() - processor)
        kept = self._shared(kept + FINISH_SECONDS * max(1.0, slower))

        chosen = config
        if costs is None or is_short(config, costs, budget - kept - self._spent()):
            chosen = frugal(config)
            costs = self._costs(chosen)
        assert costs is not None, "frugal rounds are timed in any case"
        spent = self._spent()
        chosen = fitted(chosen, costs, budget - kept - spent)
        limit = _limit(chosen, costs, budget, kept, self.began)
        if self.accelerator.is_main_process:
            files.write_json(file, _to_json(config, chosen, limit))
            _say(config, chosen, costs, spent, kept)
        return chosen, limit

    def _spent(self) -> float:
        """Returns the seconds that the main process has used."""
        return float(self._shared(time.monotonic() - self.began))

    def _costs(self, config: DistillConfig, left: float | None = None) -> Costs | None:
        """Times the rounds of a run; returns None where far too few fit into the time that is ``left``."""
        trainer = self.make(timing_config(config))
        # The first round takes longer, because it also makes what the later ones find.
        first = self._shared(trainer.timed_round(idle_rounds(trainer.method)))
        if left is not None and first > left / FEW_ROUNDS:
            return None
        costs = measured_costs(trainer, late=late_rounds(config) > 0)
        longer = config.synthesizer.timed()[1]
        return Costs(*self._shared([longer * costs.update, costs.step, costs.late_step]))

    def _shared(self, value: Any) -> Any:
        """Returns the main process's value, because each would measure another."""
        values = [value]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(values)
        return values[0]


def measured_costs(trainer: Trainer, *, late: bool) -> Costs:
    """Times some rounds of a trainer with ``MANY`` rounds, which is of no use afterwards.

    Args:
        trainer: from a ``timing_config``, with one round done.
        late: whether the last rounds cost more.
    """
    first = idle_rounds(trainer.method)

    def timed(index: int, steps: int) -> float:
        trainer.adopt(dataclasses.replace(trainer.method, student_steps=steps))
        return trainer.timed_round(index)

    places = range(first + 1, first + 1 + _REPEATS)
    few, more = (
        sum(timed(index, steps) for index in places) / _REPEATS for steps in (_FEW_STEPS, _MORE_STEPS)
    )
    step = max(1e-6, (more - few) / (_MORE_STEPS - _FEW_STEPS))
    update = max(1e-6, few - _FEW_STEPS * step)
    late_step = timed(MANY - 1, 1) - update if late else step
    return Costs(update, step, max(step, late_step))


def finished_config(config: DistillConfig, trainer: Trainer) -> DistillConfig:
    """Returns the configuration that repeats a finished run with a budget to the bit, without a clock."""
    totals = trainer.pace.totals
    planned = [list(pair) for pair in totals] if len(totals) > 1 else []
    return dataclasses.replace(config, budget=None, planned_rounds=planned, synthesizer=trainer.method)


def evaluation_seconds(measurement: Measurement | None, classifiers: list[Classifier]) -> list[float]:
    """Returns the seconds of each classifier's measurement at the end, and then of the control's.

    They come from some of the images; there are none without a measurement.
    """
    if measurement is None:
        return []
    data = measurement.data
    n = len(data)
    places = torch.arange(min(n, SAMPLE)) * n // min(n, SAMPLE)
    some = dataclasses.replace(data, images=data.images[places], labels=data.labels[places])
    sample = dataclasses.replace(measurement, data=some, corrupted=(), control=None)
    clean = dataclasses.replace(sample, attacks=())

    def seconds(classifier: Classifier, corrupted: int = 0) -> float:
        clean.report(classifier)  # the first passes take longer
        try:
            attacked = _seconds(lambda: sample.report(classifier))
        except InputError:  # so few images may lack one that an attack can use
            attacked = (1 + len(measurement.attacks)) * _seconds(lambda: clean.report(classifier))
        alone = _seconds(lambda: clean.report(classifier)) if corrupted else 0.0
        return (attacked * n + alone * corrupted) / len(places)

    corrupted = sum(len(split) for split in measurement.corrupted)
    control = measurement.control
    with shown(False):
        models = [seconds(classifier, corrupted) for classifier in classifiers]
        return models if control is None else [*models, seconds(control.to(classifiers[0].mean.device))]


def student_inspection_seconds(
    purification: Mapping[str, Any] | None, classifiers: list[Classifier], options: TrainerOptions
) -> float:
    """Returns the seconds of the student's inspection, from those of the teacher's or of its copy's.

    A student may be slower than its teacher. With ``wrn_16_1`` of the 43 classes of GTSRB, a run of ten
    minutes whose teacher was smaller took fifteen.

    Args:
        purification: report as JSON; None without one.
        classifiers: the last is the student, and the one before it was inspected last.
        options: have the precision of the inspections.
    """
    if not purification:
        return 0.0
    inspected = purification["reinspected"] if purification["changed"] else purification["inspected"]
    if not inspected:
        return 0.0
    before, student = (_pass_seconds(one, inspection_precision(options)) for one in classifiers[-2:])
    return float(inspected["seconds"]) * student / before


def _pass_seconds(classifier: Classifier, precision: Precision) -> float:
    """Returns the seconds of a pass with its gradient to the pixels, as an inspection has it."""
    spec, device = classifier.spec, classifier.mean.device
    pixels = torch.full((_PASSED, spec.channels, spec.height, spec.width), 0.5, device=device)

    def work() -> None:
        shown = pixels.clone().requires_grad_()
        logits = in_precision(classifier, precision)(shown)
        torch.autograd.grad(logits.float().sum(), shown)[0].sum().item()  # waits for the device

    with in_eval_mode(classifier):
        work()  # the first pass takes longer
        return min(_seconds(work) for _ in range(_REPEATS))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _limit(config: DistillConfig, costs: Costs, budget: float, kept: float, began: float) -> TimeLimit:
    steps = config.synthesizer.student_steps
    return TimeLimit(
        budget=budget,
        kept=kept,
        round_seconds=costs.round(steps),
        late_seconds=costs.round(steps, late=True),
        late_rounds=late_rounds(config),
        idle_rounds=idle_rounds(config.synthesizer),
        began=began,
    )


def _to_json(config: DistillConfig, chosen: DistillConfig, limit: TimeLimit) -> dict[str, Any]:
    """Returns what a resumed run needs: the fields that were chosen, and the time that is left."""
    pairs = zip(config.defenses, chosen.defenses, strict=True)
    numbers = dataclasses.asdict(limit)
    del numbers["began"]
    return {
        "budget": config.budget,
        "synthesizer": differences(config.synthesizer, chosen.synthesizer),
        "defenses": [differences(before, after) for before, after in pairs],
        "trainer": differences(config.trainer, chosen.trainer),
        "limit": numbers | {"earlier": limit.spent()},
    }


def _restored(
    config: DistillConfig, stored: Mapping[str, Any], began: float
) -> tuple[DistillConfig, TimeLimit]:
    try:
        pairs = zip(config.defenses, stored["defenses"], strict=True)
        chosen = dataclasses.replace(
            config,
            synthesizer=dataclasses.replace(config.synthesizer, **stored["synthesizer"]),
            defenses=[dataclasses.replace(defense, **fields) for defense, fields in pairs],
            trainer=dataclasses.replace(config.trainer, **stored["trainer"]),
        )
        return chosen, TimeLimit(**stored["limit"], began=began)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"budget: {BUDGET_FILE} is damaged; remove it, and the run chooses again") from error


def _say(config: DistillConfig, chosen: DistillConfig, costs: Costs, spent: float, kept: float) -> None:
    """Tells the choice in one paragraph, before the first round."""
    method = chosen.synthesizer
    name = plugin_name("synthesizers", method)
    parts = {name: differences(config.synthesizer, method)}
    for before, after in zip(config.defenses, chosen.defenses, strict=True):
        parts[plugin_name("defenses", after)] = differences(before, after)
    parts["trainer"] = differences(config.trainer, chosen.trainer)
    told = [f"{part}.{field} {value}" for part, fields in parts.items() for field, value in fields.items()]
    logger.info(
        "budget: %s, of which %s are over and about %s are kept for the end. A round of %s takes about "
        "%.3g s here, so that %d rounds fit: %s. Their number is corrected while the run goes on.",
        config.budget,
        format_duration(spent),
        format_duration(kept),
        name,
        costs.round(method.student_steps),
        method.rounds,
        ", ".join(told),
    )
    needed = costs.run(chosen)
    if spent + kept + needed > 1.05 * parse_duration(config.budget or "", "budget"):
        logger.warning(
            "budget: %s is too short: even %d rounds take about %s more; the run goes on all the same",
            config.budget,
            method.rounds,
            format_duration(needed + kept),
        )
