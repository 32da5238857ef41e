"""Augmentation on the device, for images that are already one tensor there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(pixels: Tensor, padding: int, flip: bool, chance: torch.Generator) -> Tensor:
    """Pads with black, crops each image at its own random place, flips half of them.

    Args:
        pixels: (N, C, H, W).
        padding: on each side, in pixels; 0 leaves the images in place.
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.

    Returns:
        (N, C, H, W), same dtype.
    """
    n, _, height, width = pixels.shape
    shift = torch.randint(2 * padding + 1, (2, n), generator=chance)
    mirrored = torch.rand(n, generator=chance) < (0.5 if flip else 0.0)
    rows = shift[0, :, None] + torch.arange(height)
    columns = torch.where(mirrored[:, None], torch.arange(width).flip(0), torch.arange(width))
    columns = shift[1, :, None] + columns
    padded = F.pad(pixels, (padding,) * 4)
    image = torch.arange(n)[:, None, None]
    where = [index.to(pixels.device) for index in (image, rows[:, :, None], columns[:, None, :])]
    return padded.permute(0, 2, 3, 1)[where[0], where[1], where[2]].permute(0, 3, 1, 2).contiguous()
