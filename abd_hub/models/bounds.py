"""This module bounds the memory and the time that a stranger's files may cost before they are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from abd_hub.core.errors import InputError, visible_line
from abd_hub.models.preprocessing import MOST_SIDE, height_and_width

MOST_HEADER = 10_000_000
"""Limits the bytes of the list of tensors in a safetensors file; each costs about 100, and no classifier of
timm has 10,000."""
MOST_NUMBER = 16_384
"""Limits the numbers in model_args, such as widths and depths."""
MOST_BLOCKS = 1000
MOST_WEIGHTS = 8
"""Limits the weights of a network to so many times those in its file; some checkpoints lack large buffers."""
_SLACK = 10_000_000


def check_header(path: Path) -> None:
    """Refuses a safetensors file whose list of tensors alone would take minutes to read.

    Raises:
        InputError: the list is too long.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
    if MOST_HEADER < size <= path.stat().st_size:
        raise InputError(
            f"weights: {path.name} lists its tensors in {size / 1e6:,.0f} MB, more than "
            f"{MOST_HEADER / 1e6:.0f}; use another checkpoint"
        )


def check_args(model_args: Mapping[str, Any]) -> None:
    """Refuses numbers in model_args that no network has.

    Raises:
        InputError: a number is too large; the message names its argument.
    """
    for name, value in model_args.items():
        for number in _numbers(value):
            if abs(number) > MOST_NUMBER:
                shown = visible_line(name, 40)
                raise InputError(f"model_args: {shown} is {number:,}; use a number up to {MOST_NUMBER:,}")
    for name in ("depth", "depths", "layers"):
        blocks = sum(_numbers(model_args.get(name)))
        if blocks > MOST_BLOCKS:
            raise InputError(f"model_args: {name} makes {blocks:,} blocks; use at most {MOST_BLOCKS:,}")
    size = height_and_width(model_args.get("img_size"))
    if size is not None and max(size) > MOST_SIDE:
        raise InputError(f"model_args: img_size is {max(size):,}; use at most {MOST_SIDE} pixels")


def check_weights(
    architecture: str, args: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str
) -> None:
    """Refuses a network far larger than its weights, before memory is taken for it.

    Args:
        architecture: timm's name.
        args: its arguments.
        tensors: the weights of the checkpoint.
        name: the checkpoint, for messages.

    Raises:
        InputError: it is too large.
    """
    counted = None
    # A network that cannot be built without memory is left to the real attempt, which says why.
    with contextlib.suppress(Exception), torch.device("meta"):
        counted = sum(
            value.numel() for value in timm.create_model(architecture, **args).state_dict().values()
        )
    there = sum(value.numel() for value in tensors.values())
    if counted is not None and counted > MOST_WEIGHTS * there + _SLACK:
        raise InputError(
            f"weights: {name} has {there / 1e6:,.1f} million, but {architecture} with {dict(args)} has "
            f"{counted / 1e6:,.0f} million; check architecture and model_args"
        )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
