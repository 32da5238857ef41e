"""This module reads the tensors of a pickle without running code in it, and in bounded memory.

torch writes its archives uncompressed, so no archive of torch unpacks to more than its own size.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abd_hub.core.errors import InputError

MOST_GROWTH = 4
"""Limits the unpacked bytes to so many times the bytes of the file; weights hardly compress."""
_SLACK = 1 << 20
"""Leaves so many bytes for small tensors that share their numbers."""


def load_pickle(path: Path) -> Any:
    """Returns what torch's ``weights_only`` reads from a pickle, on the CPU.

    Raises:
        InputError: the file is damaged, holds more than tensors, or unpacks to much more than its size.
    """
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickle protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"weights: {path.name} holds more than tensors or is damaged, so it was not read"
            f" ({type(error).__name__}); save its state dict as .safetensors"
        ) from error


def check_pickled(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuses tensors that are no plain arrays, or larger together than their file can hold.

    A view of one number may claim any shape, and only a look at all its numbers would take the memory.

    Raises:
        InputError: there is one.
    """
    total = 0
    for name, tensor in tensors.items():
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
        if not plain or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise InputError(
                f"weights: {name[:80]} in {path.name} is sparse, quantized or empty of numbers; save it as a "
                "plain tensor of float32"
            )
        total += tensor.numel() * tensor.element_size()
    _check_growth(path, total)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return  # an older pickle is no archive, and of a damaged one torch reads nothing
    _check_growth(path, total)


def _check_growth(path: Path, total: int) -> None:
    size = path.stat().st_size
    if total > MOST_GROWTH * size + _SLACK:
        raise InputError(
            f"weights: {path.name} has {size / 1e6:,.1f} MB and unpacks to {total / 1e6:,.0f} MB, which "
            "weights do not; save its state dict as .safetensors"
        )
