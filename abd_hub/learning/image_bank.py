"""Synthetic images that a method keeps for its student: uint8, on the device, bounded.

51,200 images of 32x32 are 157 MB. The published code writes as many PNG files and reads them again ten
million times; here nothing leaves the device, and a checkpoint takes the bank with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec


class DeviceImageBank:
    """The newest ``capacity`` images with the classes they were made for.

    Args:
        spec: of the images.
        capacity: images held; further ones replace the oldest.
        device: where they lie.

    Raises:
        InputError: the capacity is not positive.
    """

    def __init__(self, spec: DataSpec, capacity: int, device: torch.device) -> None:
        if capacity < 1:
            raise InputError(f"bank_size: must be at least 1, got {capacity}")
        self.capacity = capacity
        self.device = device
        # Not filled yet: memory that was never written to costs nothing on the CPU.
        self._images = torch.empty(
            capacity, spec.channels, spec.height, spec.width, dtype=torch.uint8, device=device
        )
        self._labels = torch.empty(capacity, dtype=torch.int64, device=device)
        self.added = 0
        """Images ever added."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def images(self) -> Tensor:
        """(n, C, H, W) uint8; the order is that of the places, not of the ages."""
        return self._images[: len(self)]

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return self._labels[: len(self)]

    def add(self, pixels: Tensor, labels: Tensor) -> None:
        """Keeps images; all processes must add the same.

        Args:
            pixels: (N, C, H, W) in [0, 1], rounded to 1/255; of more than ``capacity`` the last are kept.
            labels: (N,).
        """
        count = min(pixels.shape[0], self.capacity)
        first = self.added + pixels.shape[0] - count
        places = torch.arange(first, first + count, device=self.device) % self.capacity
        self._images[places] = (pixels[-count:].detach() * 255).round().clamp(0, 255).to(torch.uint8)
        self._labels[places] = labels[-count:].to(self.device)
        self.added += pixels.shape[0]

    def pixels(self, places: Tensor) -> Tensor:
        """The images at ``places``, (N,) int64 below ``len``, as float32 (N, C, H, W) in [0, 1]."""
        return self._images[places.to(self.device)].float() / 255

    def draw(self, count: int, chance: torch.Generator) -> Tensor:
        """Places of ``count`` images, drawn with replacement only where the bank holds fewer.

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
        """The images, their classes and the count."""
        return {"images": self.images, "labels": self.labels, "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.added = state["added"]
        self._images[: len(self)] = state["images"].to(self.device)
        self._labels[: len(self)] = state["labels"].to(self.device)
