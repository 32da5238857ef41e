"""The families of universal triggers among which an inversion searches: one trigger a class, the same for
every image.

``mask`` is Neural Cleanse's: x' = (1 - m) x + m p, with one mask for all channels, and the size is |m|_1.
``additive`` is x' = clamp(x + d, 0, 1), and the size is |d|_2 in pixel units. Both minimize, for each class,

    mean over images of CE(f(x'), class) + weight * size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from abd_hub.core.inspections import FoundTrigger


class Family(ABC):
    """The triggers of k classes as free parameters, which an optimizer moves."""

    name: ClassVar[str]
    rate: ClassVar[float]
    """Step of Adam."""
    unit: ClassVar[str]
    """Of the sizes, as a detail names it."""
    parameters: tuple[Tensor, ...]
    """Each with k rows; leaves that require gradients."""
    weights: Tensor
    """(k,) what the sizes are multiplied by at the start."""

    @abstractmethod
    def put(self, pixels: Tensor, rows: slice = slice(None)) -> Tensor:
        """Puts the trigger of each class on the images of this class.

        Args:
            pixels: (k, n, C, H, W) in [0, 1].
            rows: which classes they belong to.
        """

    @abstractmethod
    def sizes(self) -> Tensor:
        """Returns (k,), differentiable."""

    @abstractmethod
    def restore(self, row: int, trigger: FoundTrigger) -> None:
        """Sets the parameters of one row to a found trigger; one without tensors changes nothing."""

    @abstractmethod
    def tensors(self, kept: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Returns the fields of a ``FoundTrigger``, from the parameters of one class."""


class MaskFamily(Family):
    """Patches and blends: a mask and a pattern, both sigmoids of free parameters."""

    name, rate, unit = "mask", 0.1, "pixels"

    def __init__(self, classes: int, like: Tensor, chance: torch.Generator) -> None:
        """Starts with a mask of 1/2 everywhere; ``like`` is an image batch with dtype, device and shape."""
        shape = like.shape[1:]
        mask = torch.zeros(classes, 1, *shape[1:])
        pattern = 0.1 * torch.randn(classes, *shape, generator=chance)
        self.parameters = (_leaf(mask, like), _leaf(pattern, like))
        # 1e-3 for 32x32: the weight of the whole mask is about the same at any size.
        self.weights = torch.full((classes,), 1 / (shape[1] * shape[2])).to(like)

    def put(self, pixels: Tensor, rows: slice = slice(None)) -> Tensor:
        """(1 - m) x + m p."""
        mask, pattern = (part[rows].sigmoid()[:, None] for part in self.parameters)
        return pixels * (1 - mask) + mask * pattern

    def sizes(self) -> Tensor:
        """|m|_1: how many pixels the pattern replaces."""
        return self.parameters[0].sigmoid().sum((1, 2, 3))

    @torch.no_grad()
    def restore(self, row: int, trigger: FoundTrigger) -> None:
        """Takes the logits of the mask and of the pattern, both at most 1e-4 from 0 and 1."""
        if trigger.mask is not None and trigger.pattern is not None:
            for part, values in zip(self.parameters, (trigger.mask, trigger.pattern), strict=True):
                part[row] = values.to(part).logit(eps=1e-4)

    def tensors(self, kept: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The mask and the pattern."""
        mask, pattern = kept
        return {"mask": mask.sigmoid().cpu(), "pattern": pattern.sigmoid().cpu()}


class AdditiveFamily(Family):
    """Noise and watermarks: a difference that is added to the image."""

    name, rate, unit = "additive", 0.02, "of Euclidean length"

    def __init__(self, classes: int, like: Tensor, chance: torch.Generator) -> None:
        """Starts near zero; ``like`` is an image batch with dtype, device and shape."""
        self.parameters = (_leaf(0.01 * torch.randn(classes, *like.shape[1:], generator=chance), like),)
        self.weights = torch.full((classes,), 3e-3).to(like)

    def put(self, pixels: Tensor, rows: slice = slice(None)) -> Tensor:
        """clamp(x + d, 0, 1)."""
        changed: Tensor = (pixels + self.parameters[0][rows, None]).clamp(0, 1)
        return changed

    def sizes(self) -> Tensor:
        """|d|_2 in pixel units."""
        lengths: Tensor = self.parameters[0].flatten(1).norm(dim=1)
        return lengths

    @torch.no_grad()
    def restore(self, row: int, trigger: FoundTrigger) -> None:
        """Takes the difference."""
        if trigger.delta is not None:
            self.parameters[0][row] = trigger.delta.to(self.parameters[0])

    def tensors(self, kept: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The difference."""
        return {"delta": kept[0].cpu()}


FAMILIES: dict[str, type[MaskFamily] | type[AdditiveFamily]] = {
    "mask": MaskFamily,
    "additive": AdditiveFamily,
}


def _leaf(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).requires_grad_()
