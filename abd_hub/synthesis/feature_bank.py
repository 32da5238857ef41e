"""Embeddings of earlier images that new ones are told apart from: two views each, on the device, bounded.

40,960 images of a WRN-16-2, 912 channels twice, are 299 MB. The published code keeps them in the memory of
the host and copies 4,096 of them, 30 MB, to the device in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError


class FeatureBank:
    """The newest ``capacity`` pairs of embeddings.

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
        # Not filled yet: memory that was never written to costs nothing on the CPU.
        self._pairs = torch.empty(capacity, 2, width, device=like.device, dtype=like.dtype)
        self.added = 0
        """Pairs ever added."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, local: Tensor, whole: Tensor) -> None:
        """Keeps pairs; all processes must add the same.

        Args:
            local: (N, width), of the local views; of more than ``capacity`` the last are kept.
            whole: (N, width), of the global views of the same images.
        """
        pairs = torch.stack([local, whole], dim=1).detach()[-self.capacity :]
        first = self.added + local.shape[0] - pairs.shape[0]
        places = torch.arange(first, first + pairs.shape[0], device=pairs.device) % self.capacity
        self._pairs[places] = pairs.to(self._pairs.dtype)
        self.added += local.shape[0]

    def draw(self, count: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Local and global embeddings of ``count`` different images, of all where there are fewer.

        Args:
            count: pairs wanted.
            chance: CPU generator, so that all processes see the same draw.

        Returns:
            Twice (min(count, len), width), without gradient.
        """
        places = torch.randperm(len(self), generator=chance)[:count]
        local, whole = self._pairs[places.to(self._pairs.device)].unbind(dim=1)
        return local, whole

    def state_dict(self) -> dict[str, Any]:
        """The pairs and the count."""
        return {"pairs": self._pairs[: len(self)], "added": self.added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.added = state["added"]
        self._pairs[: len(self)] = state["pairs"].to(self._pairs.device)
