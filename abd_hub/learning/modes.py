"""Changes the mode of a module while a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn
from torch.overrides import TorchFunctionMode

DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
"""All functions that drop values or maps; torch gives each of them its input as the first argument."""


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


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keeps BatchNorm in train mode from recording statistics; it still normalizes by the batch.

    Dropout is off, as a layer and as a function: with another mask in each pass, the difference of two passes
    would be noise.
    """
    dropping = [layer for layer in module.modules() if _drops(layer) and layer.training]
    for layer in dropping:
        layer.training = False

    recording = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.training and layer.track_running_stats
    ]

    for layer in recording:
        layer.track_running_stats = False
    try:
        with _NoDropout():
            yield
    finally:
        for layer in recording:
            layer.track_running_stats = True
        for layer in dropping:
            layer.training = True


def _drops(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd | DropPath)


class _NoDropout(TorchFunctionMode):
    """Turns dropout off in networks that call the function, as most of timm's do before their classifier."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Returns the input of a dropout, and passes every other call on."""
        return args[0] if func in DROPOUTS else func(*args, **(kwargs or {}))
