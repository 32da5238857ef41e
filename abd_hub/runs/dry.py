"""Says what a run would do and for how long, from a few rounds that are thrown away; nothing is written."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path

from abd_hub.config.budget import idle_rounds, late_rounds
from abd_hub.config.durations import format_duration
from abd_hub.config.options import DistillConfig
from abd_hub.config.poison import PoisonConfig
from abd_hub.runs.budget import evaluation_seconds, measured_costs, timing_config
from abd_hub.runs.choosing import inspection_seconds, plan_text, with_device
from abd_hub.runs.distill import opened
from abd_hub.runs.poison import opened as opened_teacher
from abd_hub.runs.raising import as_begun
from abd_hub.training.running import make_accelerator


def dry_distill(config: DistillConfig) -> str:
    """Returns the plan of a distillation, with the time of its rounds where it has no budget.

    Raises:
        InputError: the run would be refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = as_begun(config)
        here = dataclasses.replace(with_device(asked), output_dir=folder, resume=False)
        accelerator = make_accelerator(here.trainer, Path(folder))
        chosen, parts = opened(asked, here, None, accelerator)
        plan = plan_text(asked, chosen, parts.teacher)
        trainer = parts.trainer(timing_config(chosen), teacher=copy.deepcopy(parts.teacher))
        if chosen.budget is not None:
            return f"{plan} Nothing has been trained."
        trainer.timed_round(idle_rounds(trainer.method))
        costs = measured_costs(trainer, late=late_rounds(chosen) > 0)
        longer = chosen.synthesizer.timed()[1]
        rounds = dataclasses.replace(costs, update=longer * costs.update).run(chosen)
        measuring = sum(evaluation_seconds(parts.measurement, [parts.teacher, trainer.student]))
    inspecting = inspection_seconds(parts.teacher.spec) if chosen.purification != "none" else 0.0
    return f"{plan} {_total(rounds + measuring + inspecting)} ({chosen.synthesizer.rounds:,} rounds)."


def dry_poison(config: PoisonConfig) -> str:
    """Returns what a training of a teacher would do, with its time.

    Raises:
        InputError: the run would be refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = dataclasses.replace(config, output_dir=folder, resume=False)
        accelerator = make_accelerator(here.trainer, Path(folder))
        material, trainer = opened_teacher(here, accelerator)
        seconds = trainer.timed_step() * trainer.steps * config.recipe.epochs
    poisoned = len(material.poisoned.indices)
    trigger = config.poison.trigger
    attack = f"{trigger} on {poisoned:,} of them" if trigger else "without a trigger"
    return (
        f"plan: {config.network.architecture} learns from {len(material.kept):,} images of "
        f"{config.data.dataset}, {attack}, for {config.recipe.epochs} epochs of {trainer.steps} steps. "
        f"{_total(seconds)}."
    )


def _total(seconds: float) -> str:
    return f"Nothing has been trained; on this machine it would take about {format_duration(seconds)}"
