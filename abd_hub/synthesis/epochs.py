"""An endless sequence of epochs, each in its own order, cut into batches."""

from __future__ import annotations

import torch
from torch import Tensor

from abd_hub.core import seeding


class Epochs:
    """Which images a batch holds. A batch may reach over the end of an epoch, or over several.

    Args:
        count: images in an epoch.
        batch_size: of the global batch.
        seed: of the orders.
        purpose: of the draw: the method's name.
    """

    def __init__(self, count: int, batch_size: int, seed: int, purpose: str) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.purpose = purpose
        self._orders: dict[int, Tensor] = {}

    def batch(self, index: int) -> Tensor:
        """(batch_size,) int64 on the CPU: the images of batch ``index``, which alone decides."""
        start, n = index * self.batch_size, self.count
        epochs = range(start // n, (start + self.batch_size - 1) // n + 1)
        known = self._orders
        # kept: a permutation of the whole split is not drawn again for every step
        self._orders = {epoch: known[epoch] if epoch in known else self._order(epoch) for epoch in epochs}
        return torch.cat(list(self._orders.values()))[start % n : start % n + self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        chance = seeding.generator(self.seed, self.purpose, "epoch", epoch)
        return torch.randperm(self.count, generator=chance)
