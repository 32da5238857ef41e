"""Changes the mode of a module while a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn


class HasModes(Protocol):
    """Describes a network that is in train or eval mode."""

    def eval(self) -> Any:
        """Switches to eval mode, as ``nn.Module`` does."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Yields all modules, as ``nn.Module`` does."""
        ...


@contextmanager
def in_eval_mode(network: HasModes) -> Iterator[None]:
    """Puts the network into eval mode inside the block, and restores every mode after it.

    In eval mode BatchNorm uses its running statistics, and dropout is off.
    """
    # Modes are saved for each module, because parts may be frozen in eval mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
