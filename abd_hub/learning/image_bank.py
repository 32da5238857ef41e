"""Keeps synthetic images for a student: uint8, on the device, up to a limit.

51,200 images of 32x32 take 157 MB. The published code writes each image to a PNG file, and reads such files
ten million times. Here no image leaves the device, except into a checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec


class DeviceImageBank:
    """Holds the newest ``capacity`` images with the classes that they were made for.

    Args:
        spec: size of the images.
        capacity: images held; further ones replace the oldest.
        device: of the images.

    Raises:
        InputError: the capacity is not positive.
    """

    def __init__(self, spec: DataSpec, capacity: int, device: torch.device) -> None:
        if capacity < 1:
            raise InputError(f"bank_size: must be at least 1, got {capacity}")
        self.capacity = capacity
        self.device = device
        # Left empty, because memory that was never written to costs nothing on the CPU.
        self._images = torch.empty(
            capacity, spec.channels, spec.height, spec.width, dtype=torch.uint8, device=device
        )
        self._labels = torch.empty(capacity, dtype=torch.int64, device=device)
        self.added = 0
        """Counts the images ever added."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def images(self) -> Tensor:
        """Returns (n, C, H, W) uint8, ordered by place and not by age."""
        return self._images[: len(self)]

    @property
    def labels(self) -> Tensor:
        """Returns the classes, (n,) int64, in the same order."""
        return self._labels[: len(self)]

    def add(self, pixels: Tensor, labels: Tensor) -> None:
        """Keeps images; all processes must add the same images.

        Args:
            pixels: (N, C, H, W) in [0, 1], rounded to 1/255. Of more than ``capacity`` the last are kept.
            labels: (N,).
        """
        count = min(pixels.shape[0], self.capacity)
        first = self.added + pixels.shape[0] - count
        places = torch.arange(first, first + count, device=self.device) % self.capacity
        self._images[places] = (pixels[-count:].detach() * 255).round().clamp(0, 255).to(torch.uint8)
        self._labels[places] = labels[-count:].to(self.device)
        self.added += pixels.shape[0]

    def pixels(self, places: Tensor) -> Tensor:
        """Returns the images at ``places``, (N,) int64 below ``len``, as float32 (N, C, H, W) in [0, 1]."""
        return self._images[places.to(self.device)].float() / 255

    def newest(self, count: int) -> Tensor:
        """Returns the images that were added last, at most ``count``, as ``pixels`` does."""
        count = min(count, len(self))
        return self.pixels(torch.arange(self.added - count, self.added) % self.capacity)

    def draw(self, count: int, chance: torch.Generator) -> Tensor:
        """Draws the places of ``count`` images, with replacement only where the bank holds fewer.

        Args:
            count: images wanted.
            chance: CPU generator, so that all devices see the same draw.

        Returns:
            (count,) int64.
        """
        if count > len(self):
            return torch.randint(len(self), (count,), generator=chance)
        return torch.randperm(len(self), generator=chance)[:count]

    def state_dict(self) -> dict[str, Any]:
        """Returns the images, their classes and the count."""
        return {"images": self.images, "labels": self.labels, "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        self.added = state["added"]
        self._images[: len(self)] = state["images"].to(self.device)
        self._labels[: len(self)] = state["labels"].to(self.device)
