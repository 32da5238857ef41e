"""Goes on with a run as it began, or with more rounds or epochs.

The schedules count on the old number up to the newest checkpoint, and on the new one from there. The pairs
are the ``planned_rounds`` or ``planned_epochs`` of config.yaml. So the finished configuration repeats the run
to the bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from abd_hub.config.budget import late_rounds
from abd_hub.config.options import DistillConfig, plugin_name
from abd_hub.config.poison import PoisonConfig, recipe_name
from abd_hub.core.errors import InputError
from abd_hub.core.folder import in_use, stored_config, write_config
from abd_hub.learning.checkpoint import checkpoints
from abd_hub.training.running import in_main_process

_OTHER = "use another --output_dir"


def as_begun(config: DistillConfig) -> DistillConfig:
    """Returns a run's configuration with the purification as it began: none, before there was a choice."""
    if not config.resume or config.purification != "auto":
        return config
    stored = stored_config(config.output_dir)
    older = bool(stored) and "purification" not in stored
    return dataclasses.replace(config, purification="none") if older else config


def with_raised_rounds(config: DistillConfig, accelerator: Accelerator) -> DistillConfig:
    """Returns a resumed run that counts on its new number of rounds; config.yaml then holds it.

    Raises:
        InputError: the number is lower than before, or the last rounds of a defense have begun.
    """
    if not config.resume or config.budget is not None:
        return config
    name, late = plugin_name("synthesizers", config.synthesizer), late_rounds(config)

    def raised() -> list[list[int]] | None:
        run = _Counted(Path(config.output_dir), name, "round")
        change = run.change(config.synthesizer.rounds)
        if change is None:
            return None
        if late and run.saved > change.old - late:
            raise InputError(
                f"{change}; the last {late} rounds of its defenses have begun: leave it at {change.old} or "
                f"{_OTHER}"
            )
        return run.write(change, run.saved)

    planned = _decided(raised, accelerator)
    return config if planned is None else dataclasses.replace(config, planned_rounds=planned)


def with_raised_epochs(config: PoisonConfig, steps: int, accelerator: Accelerator) -> PoisonConfig:
    """Returns a resumed training that counts on its new number of epochs; config.yaml then holds it.

    Args:
        config: of the training.
        steps: number of steps in an epoch.
        accelerator: of all processes.

    Raises:
        InputError: the number is lower than before, or it is the number of a surrogate as well.
    """
    if not config.resume:
        return config

    def raised() -> list[list[int]] | None:
        run = _Counted(Path(config.output_dir), recipe_name(config.recipe), "epoch")
        change = run.change(config.recipe.epochs)
        if change is None:
            return None
        if config.poison.perturbation and config.poison.surrogate is None:
            raise InputError(
                f"{change}; its surrogate was trained for as many: leave it at {change.old} or {_OTHER}"
            )
        return run.write(change, -(-run.saved // steps))  # an epoch that has begun ends as it began

    planned = _decided(raised, accelerator)
    return config if planned is None else dataclasses.replace(config, planned_epochs=planned)


@dataclasses.dataclass(frozen=True)
class _Change:
    """Holds a number of rounds or epochs that has changed; as text it begins an error."""

    name: str
    old: int
    new: int

    def __str__(self) -> str:
        return f"{self.name}: is {self.new} now and was {self.old} when the run began"


class _Counted:
    """Holds what the folder of an unfinished run says of its rounds or epochs.

    Args:
        folder: of the run.
        section: settings with the number.
        unit: round or epoch.
    """

    def __init__(self, folder: Path, section: str, unit: str) -> None:
        self.folder, self.section, self.unit = folder, section, unit
        self.stored = stored_config(folder)

    @property
    def saved(self) -> int:
        """Returns the number of the newest checkpoint; 0 where there is none."""
        found = checkpoints(self.folder / "checkpoints")
        return int(found[-1].name.partition("-")[2]) if found else 0

    def change(self, new: int) -> _Change | None:
        """Returns the change of the number; None without one.

        Raises:
            InputError: the number is lower.
        """
        settings = self.stored.get(self.section)
        old = settings.get(f"{self.unit}s") if isinstance(settings, dict) else None
        if not isinstance(old, int) or old == new:
            return None
        change = _Change(f"{self.section}.{self.unit}s", old, new)
        if new < old:
            raise InputError(
                f"{change}; a run that goes on can only have more {self.unit}s: raise it or {_OTHER}"
            )
        return change

    def write(self, change: _Change, done: int) -> list[list[int]] | None:
        """Writes the new number into config.yaml, which counts after ``done``; returns the pairs."""
        if in_use(self.folder):
            return None  # the claim of the folder refuses it
        plan = f"planned_{self.unit}s"
        before = [pair for pair in self.stored.get(plan) or [[0, change.old]] if pair[0] < done]
        planned = [*before, [done, change.new]] if before else []
        settings = self.stored[self.section] | {f"{self.unit}s": change.new}
        changed = self.stored | {self.section: settings, plan: planned}
        write_config(self.folder, yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
        return planned


def _decided(raised: Any, accelerator: Accelerator) -> list[list[int]] | None:
    """Lets the main process decide, and passes its pairs to all."""
    planned: list[Any] = [in_main_process(accelerator, raised)]
    if accelerator.num_processes > 1:
        broadcast_object_list(planned)
    pairs: list[list[int]] | None = planned[0]
    return pairs
