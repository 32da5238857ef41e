"""The published bank of images, which CMI and Fast share: PNG files, and a student that learns from them.

``textbook_loops.py`` lists the work that makes it slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, ImageOps
from textbook_loops import kl
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from abd_hub import Classifier

Crop = tuple[int, int, int, bool]
"""Holds an image's number, row and column of its crop from the padded image, and whether it is mirrored."""


class BankDraws(Protocol):
    """Draws the images of the student's steps."""

    def crops(self, index: int, count: int) -> Iterable[list[Crop]]:
        """Returns for each student step its batch out of ``count`` images."""


class PngFolder(Dataset):
    """Decodes and augments one image at a time."""

    def __init__(self, folder: Path, padding: int) -> None:
        self.folder, self.padding = folder, padding

    def __getitem__(self, crop: Crop) -> Tensor:
        place, row, column, mirrored = crop
        with Image.open(self.folder / f"{place}.png") as file:
            image = file.convert("RGB")
        width, height = image.size
        padded = ImageOps.expand(image, self.padding)
        shown = padded.crop((column, row, column + width, row + height))
        return to_tensor(ImageOps.mirror(shown) if mirrored else shown)


class LayerStatistics:
    """Notes the statistics of the inputs of one BatchNorm layer in every pass.

    Args:
        layer: has the statistics of the training data.
        momentum: share of the earlier rounds in the statistics that are compared; CMI has 0.
    """

    def __init__(self, layer: nn.BatchNorm2d, momentum: float) -> None:
        self.average: tuple[Tensor, Tensor] | None = None
        self.momentum = momentum
        layer.register_forward_hook(self.note)

    def note(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], _output: Tensor) -> None:
        features = inputs[0]
        mean = features.mean([0, 2, 3])
        rows = features.permute(1, 0, 2, 3).contiguous().view(features.shape[1], -1)
        variance = rows.var(1, unbiased=False)
        self.latest = mean.detach(), variance.detach()
        if self.average is not None:
            mean, variance = (
                (1 - self.momentum) * new + self.momentum * old
                for new, old in zip((mean, variance), self.average, strict=True)
            )
        self.distance = (layer.running_var - variance).norm() + (layer.running_mean - mean).norm()
        self.image_means = features.mean([2, 3])

    def remember(self) -> None:
        """Adds the statistics of the last pass to the moving average."""
        old = self.average or self.latest
        self.average = tuple(
            (1 - self.momentum) * new + self.momentum * before
            for new, before in zip(self.latest, old, strict=True)
        )


class TextbookBank:
    """Runs the half of a round in which the student learns from the bank.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: pixels to logits; it learns in place.
        method: sizes, rates and schedule.
        draws: makes the random draws of all rounds.
        folder: takes the PNG files.
        workers: number of processes of the DataLoader.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: Any,
        draws: BankDraws,
        folder: Path,
        workers: int,
    ) -> None:
        self.teacher = teacher.requires_grad_(True).eval()
        self.student, self.method, self.bank_draws = student.train(), method, draws
        self.folder, self.workers = folder, workers
        self.device = next(student.parameters()).device
        layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        momentum = getattr(method, "batch_norm_momentum", 0.0)
        self.seen = [LayerStatistics(layer, momentum) for layer in layers]
        self.sgd = torch.optim.SGD(
            student.parameters(),
            lr=method.learning_rate,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )
        self.saved = 0
        self.idle = getattr(method, "warmup_rounds", 0)

    def round(self, index: int) -> None:
        self.synthesize(index)
        if index >= self.idle:
            self.distill(index, self.batches(index))

    def synthesize(self, index: int) -> None:
        """Makes one batch of images and saves it."""
        raise NotImplementedError

    def save(self, pixels: Tensor) -> None:
        for image in (pixels * 255).round().to(torch.uint8).cpu():
            to_pil_image(image).save(self.folder / f"{self.saved}.png")
            self.saved += 1

    def batches(self, index: int) -> Iterator[Tensor]:
        """Returns the round's batches once the workers are up."""
        drawn = list(self.bank_draws.crops(index, self.saved))
        images = PngFolder(self.folder, self.method.crop_padding)
        loader = iter(DataLoader(images, batch_sampler=drawn, num_workers=self.workers))
        return chain([next(loader)], loader)

    def distill(self, index: int, batches: Iterable[Tensor]) -> None:
        method = self.method
        done = max(0, index - self.idle) / (method.rounds - self.idle)
        annealed = 0.5 * (1 + math.cos(math.pi * done))
        self.sgd.param_groups[0]["lr"] = method.learning_rate * annealed
        for pixels in batches:
            images = pixels.to(self.device)
            with torch.no_grad():
                t = self.teacher(images)
            loss = kl(t / method.temperature, self.student(images) / method.temperature)
            self.sgd.zero_grad()
            (loss * method.temperature**2).backward()
            self.sgd.step()
