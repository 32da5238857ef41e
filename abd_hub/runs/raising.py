"""Raises the number of rounds of a run that goes on.

The schedules count on the old number up to the newest checkpoint, and on the new one from there. The pairs
are the ``planned_rounds`` of config.yaml, so that the finished configuration repeats the run to the bit.
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
from abd_hub.core.errors import InputError
from abd_hub.core.files import CONFIG_FILE, RECORD_FILE
from abd_hub.core.folder import in_use, is_ours, write_config
from abd_hub.core.yaml_text import YamlError, read_yaml
from abd_hub.learning.checkpoint import checkpoints
from abd_hub.training.running import in_main_process

_OTHER = "use another --output_dir"


def with_raised_rounds(config: DistillConfig, accelerator: Accelerator) -> DistillConfig:
    """Returns a resumed run that counts on its new number of rounds; config.yaml then holds it.

    Raises:
        InputError: the number is lower than before, or the last rounds of a defense have begun.
    """
    if not config.resume or config.budget is not None:
        return config
    planned: list[Any] = [in_main_process(accelerator, lambda: _raised(config))]
    if accelerator.num_processes > 1:
        broadcast_object_list(planned)
    return config if planned[0] is None else dataclasses.replace(config, planned_rounds=planned[0])


def _raised(config: DistillConfig) -> list[list[int]] | None:
    """Writes the new number into the folder's config.yaml; returns the pairs, or None without a change."""
    folder = Path(config.output_dir)
    stored = _stored(folder)
    name, new = plugin_name("synthesizers", config.synthesizer), config.synthesizer.rounds
    settings = stored.get(name)
    old = settings.get("rounds") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(old, int) or old == new:
        return None

    saved = checkpoints(folder / "checkpoints")
    done = int(saved[-1].name.partition("-")[2]) if saved else 0
    _check(f"{name}.rounds: is {new} now and was {old} when the run began", config, old, done)
    if in_use(folder):
        return None  # the claim of the folder refuses it
    before = [pair for pair in stored.get("planned_rounds") or [[0, old]] if pair[0] < done]
    planned = [*before, [done, new]] if before else []
    changed = stored | {name: settings | {"rounds": new}, "planned_rounds": planned}
    write_config(folder, yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
    return planned


def _check(change: str, config: DistillConfig, old: int, done: int) -> None:
    if config.synthesizer.rounds < old:
        raise InputError(f"{change}; a run that goes on can only have more rounds: raise it or {_OTHER}")
    late = late_rounds(config)
    if late and done > old - late:
        raise InputError(
            f"{change}; the last {late} rounds of its defenses have begun: leave it at {old} or {_OTHER}"
        )


def _stored(folder: Path) -> dict[str, Any]:
    """Returns the configuration of an unfinished run in the folder; an empty one where there is none."""
    if not is_ours(folder) or (folder / RECORD_FILE).exists():
        return {}
    try:
        stored = read_yaml((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError):
        return {}  # the claim of the folder refuses the file
    return stored if isinstance(stored, dict) else {}
