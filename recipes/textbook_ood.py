"""The published distillation on patches; ``textbook_loops.py`` lists the work that makes it slow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
from textbook_bank import Crop, PngFolder
from textbook_loops import kl
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image

from abd_hub import Classifier, Ood

Box = tuple[int, int, int, int]
"""Holds top, left, bottom and right of a box in pixels."""


class TextbookOod:
    """Runs the student's steps on patches, which lie as PNG files in a folder.

    Args:
        teacher: pixels to logits; frozen.
        student: pixels to logits; it learns in place.
        method: sizes, rates and schedule.
        patches: (n, 3, H, W) uint8.
        crops: returns the batches of a round, by the round's index.
        box: returns the box that CutMix pastes, by the round's index and the step.
        folder: takes the PNG files.
        workers: number of processes of the DataLoader.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: Ood,
        patches: Tensor,
        crops: Callable[[int], Iterable[list[Crop]]],
        box: Callable[[int, int], Box],
        folder: Path,
        workers: int,
    ) -> None:
        self.teacher, self.student, self.method = teacher.eval(), student.train(), method
        self.crops, self.box, self.folder, self.workers = crops, box, folder, workers
        self.device = next(student.parameters()).device
        self.adam = torch.optim.Adam(student.parameters(), lr=method.learning_rate)
        for place, patch in enumerate(patches):
            to_pil_image(patch).save(folder / f"{place}.png")

    def round(self, index: int) -> None:
        self.distill(index, self.batches(index))

    def batches(self, index: int) -> Iterator[Tensor]:
        """Returns the round's batches once the workers are up."""
        images = PngFolder(self.folder, self.method.crop_padding)
        loader = iter(DataLoader(images, batch_sampler=list(self.crops(index)), num_workers=self.workers))
        return chain([next(loader)], loader)

    def distill(self, index: int, batches: Iterable[Tensor]) -> None:
        annealed = 0.5 * (1 + math.cos(math.pi * index / self.method.rounds))
        self.adam.param_groups[0]["lr"] = self.method.learning_rate * annealed
        temperature = self.method.temperature
        for step, pixels in enumerate(batches):
            images = pasted(pixels, self.box(index, step)).to(self.device)
            with torch.no_grad():
                t = self.teacher(images)
            loss = kl(t / temperature, self.student(images) / temperature)
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()


def pasted(pixels: Tensor, box: Box) -> Tensor:
    """Pastes the box of another image of the batch into each image."""
    top, left, bottom, right = box
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels.flip(0)[:, :, top:bottom, left:right]
    return mixed
