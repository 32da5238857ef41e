"""Keeps embeddings of earlier images, two views each, on the device, up to a limit.

Contrastive learning compares new images with them. 40,960 images of a WRN-16-2, 912 channels twice, take
299 MB. The published code keeps them in the memory of the host. It copies 4,096 of them, 30 MB, to the device
in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError


class FeatureBank:
    """Holds the newest ``capacity`` pairs of embeddings.

    Args:
        width: length of an embedding.
        capacity: pairs held; further ones replace the oldest.
        like: gives device and dtype.

    Raises:
        InputError: the capacity is not positive.
    """

    def __init__(self, width: int, capacity: int, like: Tensor) -> None:
        if capacity < 1:
            raise InputError(f"feature_bank_size: must be at least 1, got {capacity}")
        self.capacity = capacity
        # Left empty, because memory that was never written to costs nothing on the CPU.
        self._pairs = torch.empty(capacity, 2, width, device=like.device, dtype=like.dtype)
        self.added = 0
        """Counts the pairs ever added."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, local: Tensor, whole: Tensor) -> None:
        """Keeps pairs; all processes must add the same pairs.

        Args:
            local: (N, width), of the local views. Of more than ``capacity`` the last are kept.
            whole: (N, width), of the global views of the same images.
        """
        pairs = torch.stack([local, whole], dim=1).detach()[-self.capacity :]
        first = self.added + local.shape[0] - pairs.shape[0]
        places = torch.arange(first, first + pairs.shape[0], device=pairs.device) % self.capacity
        self._pairs[places] = pairs.to(self._pairs.dtype)
        self.added += local.shape[0]

    def draw(self, count: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws the local and global embeddings of ``count`` different images, or of all if fewer are kept.

        Args:
            count: pairs wanted.
            chance: CPU generator, so that all processes see the same draw.

        Returns:
            Local and global embeddings, each (min(count, len), width), without gradient.
        """
        places = torch.randperm(len(self), generator=chance)[:count]
        local, whole = self._pairs[places.to(self._pairs.device)].unbind(dim=1)
        return local, whole

    def state_dict(self) -> dict[str, Any]:
        """Returns the pairs and the count."""
        return {"pairs": self._pairs[: len(self)], "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        self.added = state["added"]
        self._pairs[: len(self)] = state["pairs"].to(self._pairs.device)
