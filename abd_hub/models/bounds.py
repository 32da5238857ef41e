"""This module bounds the memory and the time that a stranger's files may cost before they are refused.

A configuration of 200 bytes may state a network of a trillion numbers or of a million layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from abd_hub.core.errors import InputError, visible_line
from abd_hub.models.preprocessing import MOST_SIDE, height_and_width

MOST_HEADER = 10_000_000
"""Limits the bytes of the list of tensors in a safetensors file; each costs about 100, and no classifier of
timm has 10,000."""
MOST_NUMBER = 16_384
"""Limits the numbers in model_args, such as widths and depths."""
MOST_BLOCKS = 1000
MOST_WHOLE = 1_000_000
"""Largest whole number in a configuration; it may be a number of layers, each of which takes time."""
TIMES = 4
"""How often a network may hold the numbers of its file; transformers sets each twice."""
SPARE_NUMBERS = 100_000_000
"""Numbers that a network may hold besides, as for the positions of larger images."""
SPARE_TENSORS = 10_000
"""Tensors that a network may hold besides; large networks have 3,000."""


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


def check_whole_numbers(config: Any, what: str) -> None:
    """Refuses whole numbers that no network has.

    Args:
        config: nested values of a configuration.
        what: the configuration, which begins the message.

    Raises:
        InputError: a whole number is above ``MOST_WHOLE``.
    """
    waiting = [("", config)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(name, inner) for inner in value]
        elif isinstance(value, int) and abs(value) > MOST_WHOLE:
            raise InputError(
                f"{what} states {name} {value}, and {MOST_WHOLE:,} is the most; use an undamaged checkpoint"
            )


@contextmanager
def no_larger_than(sizes: Sequence[int]) -> Iterator[None]:
    """Stops the building of a network that is far larger than its weights file.

    Each parameter is counted before it gets its first values, so that untouched memory is all it has.

    Args:
        sizes: the number of values of each tensor in the file.

    Raises:
        InputError: the network has more than ``TIMES`` the numbers or tensors of the file, and some to spare.
    """
    left = {"numbers": SPARE_NUMBERS + TIMES * sum(sizes), "tensors": SPARE_TENSORS + TIMES * len(sizes)}

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        left["numbers"] -= tensor.numel()
        left["tensors"] -= 1
        for what, number in left.items():
            if number < 0:
                raise InputError(f"its configuration states far more {what} than its weights file holds")

    with ExitStack() as registered:
        registered.callback(hooks.register_module_parameter_registration_hook(count).remove)
        registered.callback(hooks.register_module_buffer_registration_hook(count).remove)
        yield


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
