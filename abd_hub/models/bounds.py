"""This module bounds a network by its weights file, before memory is taken for what a configuration states.

A configuration of 200 bytes may state a network of a trillion numbers or of a million layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from abd_hub.core.errors import InputError

MOST_WHOLE = 1_000_000
"""Largest whole number in a configuration; it may be a number of layers, each of which takes time."""
TIMES = 4
"""How often a network may hold the numbers of its file; transformers sets each twice."""
SPARE_NUMBERS = 100_000_000
"""Numbers that a network may hold besides, as for the positions of larger images."""
SPARE_TENSORS = 10_000
"""Tensors that a network may hold besides; large networks have 3,000."""


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
