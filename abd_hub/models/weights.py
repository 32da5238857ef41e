"""This module reads weights files without running code in them, and fits the weights to a model.

A safetensors file holds only tensors. A pickle is read only with permission, by torch's ``weights_only``,
which refuses everything that would have to run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.lfs import REMEDY, is_pointer
from abd_hub.core.pickles import PICKLE_SUFFIXES, is_pickle
from abd_hub.core.records import ModelRef
from abd_hub.models.bounds import check_header
from abd_hub.models.pickled import check_pickled, load_pickle

WRAPPERS = (
    "state_dict",
    "net",
    "model",
    "model_state_dict",
    "model_state",
    "network",
    "netC",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
)
"""Lists the names of dictionaries around the tensors; the first one counts."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "timm_model.")
LEFTOVERS = ("total_ops", "total_params")
"""Lists the counters that the profiler thop leaves in every module of a network."""

MISFIT_REMEDY = "check architecture, or pass the model_args with which the network was built"
MOST_WRAPPERS = 8
"""Dictionaries around the tensors; a pickle may hold one that holds itself."""
KINDS_OF_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Kinds of floating-point numbers that mean what they say; those of 8 bits need a scale beside them."""


def load_state_dict_into(model: nn.Module, file: str | Path, *, allow_pickle: bool = False) -> ModelRef:
    """Fills a module of your own with the weights in ``file``, strictly.

    Wrapping dicts (``net``, ``state_dict``, ``model``) and prefixes (``module.``) are removed.

    Args:
        model: any module; changed in place.
        file: a .safetensors file, or with ``allow_pickle`` a .pth, .pt or .bin state dict.
        allow_pickle: read pickles too, with torch's ``weights_only``.

    Returns:
        The file's name, the module's class name and the file's hash.

    Raises:
        InputError: the file is missing, refused or broken, holds NaN, or does not fit the module.
    """
    path = Path(file)
    tensors = read_tensors(path, allow_pickle=allow_pickle)
    fill(model, tensors, path.name)
    return ModelRef(path.name, type(model).__qualname__, sha256=file_sha256([path]))


def read_tensors(path: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Returns the finite tensors of a weights file, by name, on the CPU.

    Raises:
        InputError: the file is missing, is a pickle without permission, would have to run code, holds
            something other than tensors, or holds NaN or infinity.
    """
    if not path.is_file():
        raise InputError(f"weights: {path.name} does not exist as a file; check the path {str(path)!r}")
    tensors = _unwrapped(_read(path, allow_pickle), path.name)
    if is_pickle(path):
        check_pickled(tensors, path)
    check_finite(tensors, path.name)
    return {name: tensor for name, tensor in tensors.items() if not _is_leftover(name, tensor)}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copies ``tensors`` into ``model`` if their names, without prefix, and shapes fit exactly.

    Raises:
        InputError: they do not fit; ``name`` begins the message.
    """
    wanted = model.state_dict()
    fitted = without_prefix(tensors, wanted)
    # Checkpoints from before PyTorch 0.4.1 lack BatchNorm's counters, which evaluation does not use.
    fitted |= {name: tensor for name, tensor in wanted.items() if _is_counter(name) and name not in fitted}
    check_types(wanted, fitted, name)
    misfit = describe_misfit(wanted, fitted)
    if misfit:
        raise InputError(f"weights: {name} does not fit {type(model).__name__} ({misfit}); {MISFIT_REMEDY}")
    model.load_state_dict(fitted)


def _is_leftover(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] in LEFTOVERS and tensor.numel() == 1


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def without_prefix(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Removes the prefixes that all names share and that the model itself does not use."""
    out = dict(tensors)
    for _ in range(4):  # wrappers nest: compiled, parallel and Lightning modules, in any order
        for prefix in PREFIXES:
            foreign = not any(name.startswith(prefix) for name in wanted)
            if foreign and out and all(name.startswith(prefix) for name in out):
                out = {name.removeprefix(prefix): tensor for name, tensor in out.items()}
    return out


def in_names_of_timm(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Renames the tensors of a ResNet that has the names of pytorch-cifar and BackdoorBox.

    Their blocks say ``shortcut`` for ``downsample``, and their head is ``linear``.

    Args:
        tensors: without prefixes.
        head: timm's name of the architecture's head.
    """
    foreign = head == "fc" and "linear.weight" in tensors and "fc.weight" not in tensors
    if not foreign or "conv1.weight" not in tensors:
        return dict(tensors)
    renamed = {}
    for name, tensor in tensors.items():
        own = f"fc.{name.removeprefix('linear.')}" if name.startswith("linear.") else name
        renamed[own.replace(".shortcut.", ".downsample.")] = tensor
    return renamed


def describe_misfit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Describes the differing names and shapes, the first three of each kind; returns "" when all fit."""
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    return "; ".join(f"{kind} {first_few(names)}" for kind, names in kinds.items() if names)


def check_types(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str) -> None:
    """Refuses whole or complex numbers in the place of weights, which come with scales or lose a part.

    Raises:
        InputError: a tensor holds such numbers; ``name`` is the file or folder.
    """
    for key, tensor in wanted.items():
        if key in given and tensor.is_floating_point() and not given[key].is_floating_point():
            kind = str(given[key].dtype).removeprefix("torch.")
            raise InputError(
                f"weights: {key} in {name} is stored as {kind}; convert it to float16 or float32"
            )


def check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuses NaN and infinity, which would spoil every computed number, and numbers that come with scales.

    Raises:
        InputError: a tensor holds one, or its numbers have 8 bits; ``name`` is the file.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in KINDS_OF_NUMBERS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"weights: {key} in {name} is stored as {kind}; convert it to float16 or float32"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"weights: {key} in {name} holds NaN or infinity; use an undamaged checkpoint")


def file_sha256(paths: Iterable[Path]) -> str:
    """Returns the hash of one file's bytes; of several files, the hash of their names and hashes in order."""
    digests = []
    for path in sorted(paths):
        with path.open("rb") as stream:
            digests.append((path.name, hashlib.file_digest(stream, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def weights_sha256(module: nn.Module) -> str:
    """Returns the hash of names, types, shapes and bytes of all tensors in the state dict, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def first_few(names: Iterable[str], limit: int = 3) -> str:
    """Returns the first names and the number of further ones, as text."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _read(path: Path, allow_pickle: bool) -> Any:
    if path.is_file() and is_pointer(path):
        raise InputError(f"weights: {path.name} {REMEDY}")
    if path.suffix == ".safetensors":
        check_header(path)
        try:
            return load_file(path)
        except Exception as error:
            raise InputError(
                f"weights: {path.name} is not a safetensors file ({reason_of(error)}); restore the file"
            ) from error

    if not is_pickle(path):
        known = ", ".join(PICKLE_SUFFIXES)
        raise InputError(f"weights: {path.name} is no known format; use .safetensors or {known}")
    if not allow_pickle:
        raise InputError(
            f"weights: {path.name} is a pickle; use a .safetensors file, or pass allow_pickle=true to read"
            " its tensors (code in it never runs)"
        )

    return load_pickle(path)


def _unwrapped(content: Any, name: str) -> dict[str, Tensor]:
    for _ in range(MOST_WRAPPERS):
        inner = _wrapped(content)
        if inner is None:
            break
        content = inner
    else:
        raise InputError(
            f"weights: {name} wraps its tensors more than {MOST_WRAPPERS} times; save the state dict alone"
        )

    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"weights: {name} holds {type(content).__name__}, not named tensors; save the state dict alone"
        )
    odd = [
        key if isinstance(key, str) else type(key).__name__  # a key of tuples may be endless as a text
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise InputError(f"weights: {first_few(odd)} in {name} are not tensors; save the state dict alone")
    return dict(content)


def _wrapped(content: Any) -> Mapping[str, Any] | None:
    if not isinstance(content, Mapping):
        return None
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)


def sized(ref: ModelRef, model: nn.Module) -> ModelRef:
    """Returns the reference of a network with its number of parameters and its megabytes."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tensors = [*model.parameters(), *model.buffers()]
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
    return dataclasses.replace(ref, parameters=parameters, megabytes=round(megabytes, 3))
