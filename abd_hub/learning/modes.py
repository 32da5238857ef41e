"""Modes of a module for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn


class HasModes(Protocol):
    """A network in train or eval mode."""

    def eval(self) -> Any:
        """As ``nn.Module`` has it."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As ``nn.Module`` has it."""
        ...


@contextmanager
def in_eval_mode(network: HasModes) -> Iterator[None]:
    """Inside, BatchNorm uses its running statistics and dropout is off; after, every mode is what it was."""
    # Module by module: parts may be frozen in eval mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
