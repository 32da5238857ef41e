"""Cuts an endless sequence of epochs, each in its own order, into batches."""

from __future__ import annotations

import torch
from torch import Tensor

from abd_hub.core import seeding


class Epochs:
    """Chooses the images of each batch. A batch may reach over the end of one epoch or several.

    Args:
        count: images in an epoch.
        batch_size: images in the global batch.
        seed: seed of the orders.
        purpose: purpose of the draw, the method's name.
    """

    def __init__(self, count: int, batch_size: int, seed: int, purpose: str) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.purpose = purpose
        self._orders: dict[int, Tensor] = {}

    def batch(self, index: int) -> Tensor:
        """Returns the images of batch ``index``, (batch_size,) int64 on the CPU.

        The result depends on no earlier call.
        """
        start, n = index * self.batch_size, self.count
        epochs = range(start // n, (start + self.batch_size - 1) // n + 1)
        known = self._orders
        # Orders are kept, so that not every step draws a permutation of the whole split.
        self._orders = {epoch: known[epoch] if epoch in known else self._order(epoch) for epoch in epochs}
        return torch.cat(list(self._orders.values()))[start % n : start % n + self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        """Draws the order of one epoch."""
        generator = seeding.generator(self.seed, self.purpose, "epoch", epoch)
        return torch.randperm(self.count, generator=generator)
