"""Computes mean and standard deviation of a training set, by which a network normalizes its input."""

from __future__ import annotations

import torch
from torch import Tensor


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each channel in [0,1], to four digits.

    Each deviation is at least 1e-4, so that it can be a divisor.

    Args:
        images: (N, C, H, W) uint8.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counts of the 256 levels stay exact for any number of pixels.
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)

    mean = shares @ levels
    std = (shares @ levels.square() - mean.square()).clamp_min(0).sqrt()

    return [round(m, 4) for m in mean.tolist()], [max(round(s, 4), 1e-4) for s in std.tolist()]
