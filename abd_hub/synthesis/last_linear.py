"""Records the features that a teacher's last linear layer turns into logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from abd_hub.core.contracts import Teacher
from abd_hub.core.errors import InputError


class LastLinear:
    """Records, on request, the input of the linear layer that gives the logits.

    One pass through the teacher finds the layer: the last linear layer to run with one output for each class.
    Its name and its place in the module do not matter.

    Args:
        teacher: a frozen module.
        method: name of the method, with which the error begins.

    Raises:
        InputError: the teacher has no such layer.
    """

    def __init__(self, teacher: Teacher, method: str) -> None:
        layers = _called(teacher)
        if not layers:
            raise InputError(
                f"{method}.activation_weight: the teacher has no linear layer with an output for each of its "
                f"{teacher.spec.num_classes} classes; set it to 0 or use zskt or dfad"
            )
        self.layer = layers[-1]

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Yields a list to which each pass of the teacher adds the layer's input, (N, d), with its graph."""
        features: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        try:
            yield features
        finally:
            handle.remove()


def _called(teacher: Teacher) -> list[nn.Linear]:
    """Returns the linear layers with one output for each class, in the order in which a pass calls them."""
    assert isinstance(teacher, nn.Module), "every teacher is a module"
    spec, like = teacher.spec, teacher.image_mean

    layers = [layer for layer in teacher.modules() if isinstance(layer, nn.Linear)]
    called: list[nn.Linear] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: called.append(layer))
        for layer in layers
        if layer.out_features == spec.num_classes
    ]

    pixels = torch.zeros(2, spec.channels, spec.height, spec.width, device=like.device, dtype=like.dtype)
    try:
        with torch.no_grad():
            teacher(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return called
