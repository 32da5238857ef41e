"""Poisoned training sets: which images carry the trigger, and which label they get.

Dirty labels are from BadNets (Gu et al., 2017, arXiv 1708.06733), clean labels from Turner et al. (2019,
arXiv 1912.02771). Cover images are from WaNet (Nguyen & Tran, ICLR 2021) and Qi et al. (ICLR 2023). The
trigger is stamped before any augmentation, so a crop may shift it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.data.images import ImageData
from abd_hub.triggers import cover_form, training_form

LABELS = ("all_to_one", "all_to_all", "clean_label")
"""Ways to select and label poisoned images.

- ``all_to_one`` selects images outside the target class and gives them the target label.
- ``all_to_all`` selects images of every class and gives them the next label; after the last comes the first.
- ``clean_label`` selects images of the target class, which keep their label. It selects all of them if the
  rate exceeds their number.
"""

Prepare = Callable[[Tensor, Tensor], Tensor]
"""Type of a function that changes images before the trigger is stamped.

It maps pixels, (N, C, H, W) in [0,1], and labels, (N,), to pixels of the same shape.
"""

_AT_ONCE = 500


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class PoisonedSet:
    """Holds a training set in which some images carry the trigger."""

    images: Tensor
    """Holds the images, (n, C, H, W) uint8."""
    labels: Tensor
    """Holds the labels, (n,) int64."""
    indices: Tensor
    """Lists the poisoned images, (m,) int64, ascending."""
    cover: Tensor = field(default_factory=_none)
    """Lists the images that carry the trigger's cover form and keep their label, (k,) int64, ascending."""


def hold_out(n: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits ``n`` images at random into images for training and clean images that are held out.

    Args:
        n: number of all images.
        share: share of images to hold out, in [0, 1); rounded to whole images.
        seed: seed of the split.

    Returns:
        Indices of the images for training and of the held-out images, both int64 and ascending.

    Raises:
        InputError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise InputError(f"data.held_out: must be in [0, 1), got {share}")

    order = torch.randperm(n, generator=seeding.generator(seed, "hold out"))
    aside = round(share * n)
    return order[aside:].sort().values, order[:aside].sort().values


def subset(data: ImageData, indices: Tensor) -> ImageData:
    """Returns the indexed images as data of their own; ``ref`` still names the whole split."""
    return replace(data, images=data.images[indices], labels=data.labels[indices])


def poison(
    data: ImageData,
    trigger: Trigger,
    target: int,
    rate: float,
    seed: int,
    *,
    labels: str = "all_to_one",
    cover_rate: float = 0.0,
    prepare: Prepare | None = None,
) -> PoisonedSet:
    """Stamps the trigger on a share of the images and labels these by the rule of the attack.

    Args:
        data: the clean training set.
        trigger: its training form is stamped, if it has one.
        target: label that the backdoor leads to; not used by ``all_to_all``.
        rate: poisoned images as a share of *all* images, in (0, 1).
        seed: seed of the selection, and of the trigger's draws in training.
        labels: one of ``LABELS``.
        cover_rate: cover images as a share of all images, in [0, 1); drawn from images that are not poisoned.
        prepare: changes the selected images before the trigger is stamped, for clean-label attacks.

    Raises:
        InputError: target, rate or cover rate is out of range, or there are too few images to select from.
    """
    _check(data, target, rate, cover_rate, labels)
    indices = _chosen(data, target, round(rate * len(data)), labels, seed, rate)
    cover = _covers(len(data), indices, round(cover_rate * len(data)), seed)
    images = _stamped(data, trigger, indices, cover, seed, prepare)

    new_labels = data.labels.clone()
    new_labels[indices] = poisoned_labels(data.labels[indices], target, len(data.names), labels)
    return PoisonedSet(images, new_labels, indices, cover)


def _stamped(
    data: ImageData, trigger: Trigger, indices: Tensor, cover: Tensor, seed: int, prepare: Prepare | None
) -> Tensor:
    """Returns a copy of the images with the trigger's training form and, after it, its cover form."""
    images = data.tensor.clone()
    draws = seeding.generator(seed, "poison", "training form")

    for part in _parts(indices):
        pixels = data.pixels(part)
        pixels = prepare(pixels, data.labels[part]) if prepare else pixels
        images[part] = _to_bytes(training_form(trigger, pixels, draws))

    for part in _parts(cover):
        images[part] = _to_bytes(cover_form(trigger, data.pixels(part), draws))
    return images


def poisoned_labels(truth: Tensor, target: int, classes: int, labels: str) -> Tensor:
    """Maps true labels, (m,), to the labels that the backdoor should cause."""
    return (truth + 1) % classes if labels == "all_to_all" else torch.full_like(truth, target)


def _check(data: ImageData, target: int, rate: float, cover_rate: float, labels: str) -> None:
    if labels not in LABELS:
        raise InputError(f"poison.labels: {labels!r} is unknown; use {', '.join(LABELS)}")
    if not 0 <= target < len(data.names):
        raise InputError(f"poison.target: {target} is out of range; use 0..{len(data.names) - 1}")
    if not 0 < rate < 1:
        raise InputError(f"poison.rate: must be in (0, 1), got {rate}")
    if not 0 <= cover_rate < 1:
        raise InputError(f"poison.cover_rate: must be in [0, 1), got {cover_rate}")


def _chosen(data: ImageData, target: int, count: int, labels: str, seed: int, rate: float) -> Tensor:
    of_target = data.labels == target
    allowed = {"all_to_one": ~of_target, "clean_label": of_target}.get(labels, torch.ones_like(of_target))
    candidates = torch.nonzero(allowed).flatten()
    if labels == "clean_label":
        count = min(count, len(candidates))
    if not 0 < count <= len(candidates):
        raise InputError(
            f"poison.rate: {rate} gives {count} images, but {len(candidates)} can be poisoned; "
            f"use a rate that gives 1 to {len(candidates)}"
        )
    order = torch.randperm(len(candidates), generator=seeding.generator(seed, "poison"))
    return candidates[order[:count]].sort().values


def _covers(n: int, poisoned: Tensor, count: int, seed: int) -> Tensor:
    free = torch.ones(n, dtype=torch.bool)
    free[poisoned] = False
    candidates = torch.nonzero(free).flatten()
    if count > len(candidates):
        raise InputError(
            f"poison.cover_rate: needs {count} images, but only {len(candidates)} are not poisoned; lower it"
        )
    order = torch.randperm(len(candidates), generator=seeding.generator(seed, "poison", "cover"))
    return candidates[order[:count]].sort().values


def _parts(indices: Tensor) -> tuple[Tensor, ...]:
    """Splits into equal parts, because a cover form may need several images in its part."""
    return torch.tensor_split(indices, math.ceil(len(indices) / _AT_ONCE)) if len(indices) else ()


def _to_bytes(pixels: Tensor) -> Tensor:
    return (pixels * 255).round().to(torch.uint8)
