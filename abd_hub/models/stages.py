"""Finds the stages of a network and collects the outputs of named modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def stages_of(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of timm's stages; a first stage that is only a stem is left out.

    A stem has at most one weight matrix. The result is empty for a model without feature maps.
    """
    info = getattr(model, "feature_info", None)
    if info is None or getattr(model, "output_fmt", "NCHW") != "NCHW":
        return ()

    modules = dict(model.named_modules())
    names = [entry["module"] for entry in info]
    if not names or any(name not in modules for name in names):
        return ()

    matrices = [weight for weight in modules[names[0]].parameters() if weight.ndim > 1]
    return tuple(names if len(matrices) > 1 else names[1:])


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of the named modules while the model runs."""
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
