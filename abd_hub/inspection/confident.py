"""Chooses images by the teacher's own confidence, balanced over the classes, and draws from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError

CHUNK_PIXELS = 1 << 19
"""Pixels that go through the teacher at a time: 512 images of 32x32, or 10 of 224x224."""


@dataclass(frozen=True, eq=False)
class ConfidentImages:
    """For each class that the teacher gives to any image, the images it gives to it most confidently."""

    images: Tensor
    """(n, C, H, W) as they were given."""
    classes: Tensor
    """(p,) int64 on the CPU: the classes that have images, in rising order; at least two."""
    rows: Tensor
    """(p, most) int64 on the CPU: indices of images, the most confident first; the rest of a row is 0."""
    counts: Tensor
    """(p,) int64 on the CPU: how many entries of a row are indices."""

    def draw(self, goals: Tensor, count: int, chance: torch.Generator) -> Tensor:
        """Draws images of other classes than the goals, each other class as often.

        Args:
            goals: (k,) class numbers on the CPU.
            count: images a goal.
            chance: CPU generator.

        Returns:
            (k, count, C, H, W) float pixels in [0, 1] on the device of the images.
        """
        own = torch.searchsorted(self.classes, goals)
        own = torch.where(self.classes[own.clamp(max=len(self.classes) - 1)] == goals, own, -1)[:, None]
        # One class fewer is left for a goal that has images itself.
        left = len(self.classes) - (own >= 0).long()
        uniform = torch.rand(2, len(goals), count, generator=chance, dtype=torch.float64)
        place = (uniform[0] * left).long()
        place += (own >= 0) & (place >= own)
        within = (uniform[1] * self.counts[place]).long()

        chosen = self.rows[place, within].to(self.images.device)
        pixels = as_pixels(self.images[chosen.flatten()])
        return pixels.view(len(goals), count, *pixels.shape[1:])

    def others(self, goal: int, most: int) -> Tensor:
        """Returns up to ``most`` images of each other class, (n, C, H, W) float pixels in [0, 1]."""
        kept = [
            row[: min(int(count), most)]
            for label, row, count in zip(self.classes.tolist(), self.rows, self.counts, strict=True)
            if label != goal
        ]
        return as_pixels(self.images[torch.cat(kept).to(self.images.device)])


def choose_confident(teacher: Any, images: Tensor, most: int) -> ConfidentImages:
    """Chooses at most ``most`` images a class.

    Args:
        teacher: in eval mode.
        images: (n, C, H, W), uint8 or float in [0, 1].
        most: images of one class.

    Raises:
        InputError: there is no image, or the teacher has one class. Or its logits are not finite or the same
            for every image, or every image gets the same class.
    """
    if teacher.spec.num_classes < 2:
        raise InputError(
            f"teacher: has {teacher.spec.num_classes} class; an inspection compares classes, give two"
        )
    if not len(images):
        raise InputError("images: there is none; give some hundreds of images, without labels")
    logits = answers(teacher, images)
    if not logits.isfinite().all():
        raise InputError("teacher: gives logits that are not finite; check its weights and normalization")
    if len(images) > 1 and torch.equal(logits, logits[:1].expand_as(logits)):
        raise InputError("teacher: gives the same logits to every image; check its weights and normalization")

    confidence, labels = logits.softmax(dim=1).max(dim=1)
    classes = torch.unique(labels)  # in rising order
    if len(classes) < 2:
        raise InputError(f"images: all {len(images)} get class {int(classes[0])}; give more varied images")
    counts = torch.bincount(labels)[classes].clamp(max=most)
    rows = torch.zeros(len(classes), int(counts.max()), dtype=torch.int64)
    for place, label in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        order = confidence[members].argsort(descending=True, stable=True)
        rows[place, : counts[place]] = members[order][: counts[place]]
    return ConfidentImages(images, classes, rows, counts)


@torch.no_grad()
def answers(teacher: Any, images: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Returns the logits of all images in float32 on the CPU; ``change`` puts a trigger on the pixels."""
    chunk = max(1, CHUNK_PIXELS // (images.shape[2] * images.shape[3]))
    found = []
    for part in torch.split(images, chunk):
        pixels = as_pixels(part)
        found.append(teacher(pixels if change is None else change(pixels)).float().cpu())
    return torch.cat(found)


def as_pixels(images: Tensor) -> Tensor:
    """Returns bytes as float pixels in [0, 1]; floating images stay as they are."""
    return images if images.is_floating_point() else images.float() / 255
