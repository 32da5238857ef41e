"""Writes and reads checkpoints without pickle: tensors in safetensors, everything else in JSON.

A checkpoint is a folder ``round-00000123``. It is written under another name and then renamed, so a killed
run leaves either a whole checkpoint or none. No file in the folder can run code when it is read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from abd_hub.core.errors import InputError

FORMAT = 2


def save(folder: Path, index: int, state: dict[str, Any], limit: int) -> Path:
    """Writes the state after ``index`` rounds and removes all but the ``limit`` newest checkpoints.

    Args:
        folder: of all checkpoints of a run; it is made where it is missing.
        index: rounds done so far.
        state: nested dicts and lists of tensors and JSON values; int keys are kept.
        limit: checkpoints that remain, at least 1.

    Returns:
        The folder of the new checkpoint.

    Raises:
        TypeError: the state holds a value that is neither a tensor nor JSON.
    """
    target = folder / f"round-{index:08d}"
    temporary = folder / f".{target.name}.tmp"
    for stale in folder.glob(".round-*.tmp"):  # of a killed process
        shutil.rmtree(stale, ignore_errors=True)

    temporary.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    packed = {"format": FORMAT, "round": index, "state": _pack(state, tensors)}
    save_file(tensors, temporary / "state.safetensors")
    (temporary / "state.json").write_text(json.dumps(packed), encoding="utf-8")

    if target.exists():  # a resumed run may reach the same round again
        shutil.rmtree(target)
    temporary.rename(target)
    for old in checkpoints(folder)[:-limit]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Returns the folders of the whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("round-*") if path.is_dir())


def load(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns the number of rounds done and the state of one checkpoint, with its tensors on the CPU.

    Raises:
        InputError: the folder is not a checkpoint of this version.
    """
    try:
        packed = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "state.safetensors")
        if packed["format"] != FORMAT:
            raise ValueError(f"it has format {packed['format']}, and this version reads format {FORMAT}")
        return packed["round"], _unpack(packed["state"], tensors)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"checkpoint {path.name}: cannot be read ({error}); remove it and resume") from error


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replaces tensors by references, and dicts by lists of pairs because JSON has no int keys."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _unpack(value: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Restores a value that ``_pack`` has packed."""
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "pairs" in value:
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    if "list" in value:
        return [_unpack(item, tensors) for item in value["list"]]
    return value["value"]


def to_device(value: Any, device: torch.device) -> Any:
    """Returns the same nested state with its tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    return value


def restore_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Loads an optimizer's state and gives each moment the memory layout of its weight.

    The state must be on the CPU. torch moves the moments to the device, but leaves Adam's step counters where
    they are. Counters on a device would make every step wait for it.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            moments = optimizer.state[weight]
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    moments[name] = torch.empty_like(weight).copy_(value)
