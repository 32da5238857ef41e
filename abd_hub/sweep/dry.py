"""Checks what a sweep needs before it begins, and adds up its time as far as budgets tell it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from abd_hub.config.durations import format_duration, parse_duration
from abd_hub.config.options import AUTO_NAME, DEFAULT_BUDGETS, DistillConfig
from abd_hub.core.errors import InputError
from abd_hub.sweep.config import Sweep, SweepRun
from abd_hub.training.running import device_type

_FOLDER = "local-dir:"


def check_teachers(plan: Sweep) -> None:
    """Refuses a sweep whose teachers or controls are folders that do not exist.

    Raises:
        InputError: there are such; the message names the first and their number.
    """
    missing = list(dict.fromkeys(pair for run in plan.runs for pair in _missing(run)))
    if missing:
        field, folder = missing[0]
        more = f", nor do {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"{field}: the folder {folder} does not exist{more}; make or name them first")


def time_line(runs: Sequence[SweepRun]) -> str:
    """Returns how long the runs take one after another, as far as they have budgets."""
    configs = [run.config for run in runs if isinstance(run.config, DistillConfig)]
    budgets = [config.budget for config in configs if config.budget is not None]
    default = DEFAULT_BUDGETS[device_type() == "cpu"]
    seconds = [parse_duration(default if text == AUTO_NAME else text, "budget") for text in budgets]
    parts = []
    if budgets:
        parts.append(f"{len(budgets)} with a budget take {format_duration(sum(seconds))} one after another")
    if len(budgets) < len(runs):
        parts.append(
            f"the time of {len(runs) - len(budgets)} is not known; --dry-run of one run tells its own"
        )
    return f"{len(runs)} runs: {'; '.join(parts)}"


def _missing(run: SweepRun) -> list[tuple[str, str]]:
    config = run.config
    control = config.evaluation.control
    named = [("evaluation.control", control.id)] if control is not None else []
    if isinstance(config, DistillConfig):
        named.insert(0, ("teacher.id", config.teacher.id))
    paths = [(field, name.removeprefix(_FOLDER)) for field, name in named if name.startswith(_FOLDER)]
    return [(field, path) for field, path in paths if not Path(path).expanduser().is_dir()]
