"""Writes and reads checkpoints without pickle: tensors in safetensors, everything else in JSON.

A checkpoint is a folder ``round-00000123``. It is written under another name and then renamed, so a killed
run leaves either a whole checkpoint or none. No file in the folder can run code when it is read. Hashes of
both files are kept, so that a changed byte is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from abd_hub.core import files
from abd_hub.core.errors import InputError, reason_of

FORMAT = 2
_STATE, _TENSORS = "state.json", "state.safetensors"
_REMEDY = "; remove it and resume"
_ASIDE = "damaged-"
"""Begins the name of a damaged checkpoint that a resumed run has left behind."""


class DamagedCheckpoint(InputError):
    """Reports a checkpoint of which a file is missing, cut off or changed."""


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
    target = folder / _name(index)
    temporary = folder / f".{target.name}.tmp"
    for stale in folder.glob(".round-*.tmp*"):  # of a killed process
        files.remove(stale)

    temporary.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    packed = _pack(state, tensors)
    save_file(tensors, temporary / _TENSORS)
    hashes = {"state": _text_hash(packed), "tensors": _file_hash(temporary / _TENSORS)}
    content = {"format": FORMAT, "round": index, "sha256": hashes, "state": packed}
    (temporary / _STATE).write_text(json.dumps(content), encoding="utf-8")
    files.settle(temporary)

    if target.exists():  # a resumed run may reach the same round again
        shutil.rmtree(target)
    temporary.rename(target)
    for old in checkpoints(folder)[:-limit]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Returns the folders of the whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("round-*") if path.is_dir())


def newest_whole(folder: Path) -> tuple[Path, tuple[int, dict[str, Any]], list[str]] | None:
    """Returns the newest checkpoint that can be read, with what ``load`` gives, and the faults of newer ones.

    Args:
        folder: of all checkpoints of a run.

    Raises:
        InputError: there are checkpoints, but all are damaged, or one is of another version.
    """
    present = checkpoints(folder)
    faults: list[str] = []
    for path in reversed(present):
        try:
            return path, load(path), faults
        except DamagedCheckpoint as error:
            faults.append(str(error).removesuffix(_REMEDY))
    if not present:
        return None
    raise InputError(
        f"resume: no checkpoint in {folder.parent.name}/{folder.name} is whole ({faults[0]}); remove that "
        "folder to begin again at the first round"
    )


def put_aside(folder: Path, last: Path) -> None:
    """Renames the checkpoints after ``last``, so that none of them counts as the newest one again."""
    for path in checkpoints(folder):
        if path.name > last.name:
            aside = folder / f"{_ASIDE}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns the number of rounds done and the state of one checkpoint, with its tensors on the CPU.

    Raises:
        DamagedCheckpoint: a file is missing, cut off or changed.
        InputError: the checkpoint may not be read, or another version wrote it.
    """
    try:
        packed = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if packed["format"] != FORMAT:
            raise InputError(
                f"checkpoint {path.name}: has format {packed['format']}, and this version reads {FORMAT}; "
                "resume with the version that wrote it, or use another folder"
            )
        _check_whole(path, packed)
        return packed["round"], _unpack(packed["state"], load_file(path / _TENSORS))
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or reason_of(error)
        kind = (
            DamagedCheckpoint if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EIO, None) else InputError
        )
        raise kind(f"checkpoint {path.name}: cannot be read ({reason}){_REMEDY}") from error
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = reason_of(error)
        raise DamagedCheckpoint(f"checkpoint {path.name}: cannot be read ({reason}){_REMEDY}") from error


def _check_whole(path: Path, packed: dict[str, Any]) -> None:
    """Compares names and hashes; older checkpoints have no hashes."""
    if path.name != _name(packed["round"]):
        raise ValueError(f"{_STATE} is of round {packed['round']}")
    hashes = packed.get("sha256")
    if hashes is None:
        return
    if _text_hash(packed["state"]) != hashes["state"]:
        raise ValueError(f"{_STATE} has changed")
    if _file_hash(path / _TENSORS) != hashes["tensors"]:
        raise ValueError(f"{_TENSORS} has changed")


def _name(index: int) -> str:
    return f"round-{index:08d}"


def _text_hash(packed: Any) -> str:
    return hashlib.sha256(json.dumps(packed).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
