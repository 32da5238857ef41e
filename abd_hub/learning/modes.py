"""Modes of a module for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm uses its running statistics and dropout is off; after, the mode is what it was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
