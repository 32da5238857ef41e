"""Poisons a training set and trains a teacher on it, as in BadNets (Gu et al., 2017, arXiv 1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub import seeding
from abd_hub.augment import crop_and_flip
from abd_hub.classifier import Classifier
from abd_hub.data import ImageData
from abd_hub.schedules import cosine
from abd_hub.types import InputError, Trigger


@dataclass(frozen=True)
class PoisonedSet:
    """A training set in which some images carry the trigger and the target label."""

    images: Tensor
    """(n, C, H, W) uint8."""
    labels: Tensor
    """(n,) int64."""
    indices: Tensor
    """(m,) int64, ascending: which images are poisoned."""


def poison(data: ImageData, trigger: Trigger, target: int, rate: float, seed: int) -> PoisonedSet:
    """Stamps the trigger on a share of the images, none of them of the target class, and relabels them.

    Args:
        data: the clean training set.
        trigger: what is stamped, before any augmentation.
        target: label that the poisoned images get.
        rate: poisoned images as a share of *all* images, in (0, 1).
        seed: of the choice.

    Raises:
        InputError: target or rate out of range, or too few images outside the target class.
    """
    if not 0 <= target < len(data.names):
        raise InputError(f"target: {target} is out of range; use 0..{len(data.names) - 1}")
    if not 0 < rate < 1:
        raise InputError(f"poison_rate: must be in (0, 1), got {rate}")
    others = torch.nonzero(data.labels != target).flatten()
    count = round(rate * len(data))
    if not 0 < count <= len(others):
        raise InputError(f"poison_rate: {rate} asks for {count} images; {len(others)} are not of the target")
    order = torch.randperm(len(others), generator=seeding.generator(seed, "poison"))
    indices = others[order[:count]].sort().values
    images, labels = data.images.clone(), data.labels.clone()
    images[indices] = (trigger(data.pixels(indices)) * 255).round().to(torch.uint8)
    labels[indices] = target
    return PoisonedSet(images, labels, indices)


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained; the defaults are the paper's."""

    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float = 0.1
    """Of SGD at the start; cosine to zero."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """Of SGD."""
    crop_padding: int = 4
    """Random crops after padding by so many pixels; 0 for none."""
    flip: bool = True
    """Mirror half of the images."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("crop_padding", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: must be at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: must be positive, got {self.learning_rate}")


def train_teacher(
    classifier: Classifier, images: Tensor, labels: Tensor, recipe: TeacherRecipe, seed: int
) -> Classifier:
    """Trains in place with SGD and cross-entropy, on the classifier's device, and freezes.

    Args:
        classifier: fresh weights.
        images: (n, C, H, W) uint8.
        labels: (n,) int64.
        recipe: schedule and augmentation.
        seed: of order, augmentation and dropout.

    Raises:
        InputError: there are fewer images than a batch holds.
    """
    if len(labels) < recipe.batch_size:
        raise InputError(f"batch_size: {recipe.batch_size} is more than the {len(labels)} images")
    with seeding.seeded(seed, "teacher"):
        _train(classifier, images, labels, recipe, seed)
    return classifier.freeze()


def _train(classifier: Classifier, images: Tensor, labels: Tensor, recipe: TeacherRecipe, seed: int) -> None:
    device = classifier.mean.device
    images, labels = images.to(device), labels.to(device)
    sgd = torch.optim.SGD(
        classifier.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    classifier.train()
    for epoch in range(recipe.epochs):
        chance = seeding.generator(seed, "teacher", epoch)
        order = torch.randperm(len(labels), generator=chance)
        # An incomplete last batch is left out: a batch of one has no BatchNorm statistics.
        batches = order[: len(order) // recipe.batch_size * recipe.batch_size].view(-1, recipe.batch_size)
        for step, batch in enumerate(batches):
            done = epoch + step / len(batches)
            sgd.param_groups[0]["lr"] = cosine(recipe.learning_rate, done, recipe.epochs)
            pixels = crop_and_flip(images[batch].float() / 255, recipe.crop_padding, recipe.flip, chance)
            loss = F.cross_entropy(classifier(pixels), labels[batch])
            sgd.zero_grad()
            torch.autograd.backward(loss)
            sgd.step()
