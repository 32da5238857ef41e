"""Draws random views of images for contrastive learning, differentiable and on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cropped(
    pixels: Tensor, padding: int, flip: bool, chance: torch.Generator, share: tuple[int, int] = (0, 1)
) -> Tensor:
    """Pads with black, crops each image at its own random place, and mirrors half of the images.

    Args:
        pixels: (N, C, H, W); the gradient flows through.
        padding: on each side, in pixels; 0 leaves the images in place.
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.
        share: (i, k) for the i-th of k equal parts of a batch; draws are made for the whole batch.

    Returns:
        (N, C, H, W), same dtype.
    """
    _, _, height, width = pixels.shape
    n, own = _drawn_for(pixels, share)
    rows, columns = torch.randint(-padding, padding + 1, (2, n), generator=chance)
    mirrored = torch.rand(n, generator=chance) < (0.5 if flip else 0.0)

    size, center = torch.ones(2, n), torch.stack([2 * rows / height, 2 * columns / width])
    return _boxes(pixels, size[:, own], center[:, own], mirrored[own], outside="zeros")


def resized(
    pixels: Tensor, least_area: float, flip: bool, chance: torch.Generator, share: tuple[int, int] = (0, 1)
) -> Tensor:
    """Resizes a random box of each image to the whole image, bilinearly, and mirrors half of the images.

    The area is uniform in [``least_area``, 1] of the image. The logarithm of the aspect ratio is uniform
    between log 3/4 and log 4/3. A side that exceeds the image is cut.

    Args:
        pixels: (N, C, H, W); the gradient flows through.
        least_area: smallest share of the image, in (0, 1].
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.
        share: (i, k) for the i-th of k equal parts of a batch; draws are made for the whole batch.

    Returns:
        (N, C, H, W), same dtype.
    """
    n, own = _drawn_for(pixels, share)
    area = least_area + (1 - least_area) * torch.rand(n, generator=chance)
    ratio = torch.exp((2 * torch.rand(n, generator=chance) - 1) * math.log(4 / 3))
    size = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()]).clamp(max=1)
    center = (2 * torch.rand(2, n, generator=chance) - 1) * (1 - size)
    mirrored = torch.rand(n, generator=chance) < (0.5 if flip else 0.0)
    return _boxes(pixels, size[:, own], center[:, own], mirrored[own], outside="border")


def _drawn_for(pixels: Tensor, share: tuple[int, int]) -> tuple[int, slice]:
    """Returns the number of images to draw for, and the slice of these draws that belongs to ``pixels``."""
    (index, parts), n = share, pixels.shape[0]
    return n * parts, slice(index * n, (index + 1) * n)


def _boxes(pixels: Tensor, size: Tensor, center: Tensor, mirrored: Tensor, outside: str) -> Tensor:
    """Resizes one box of each image to the whole image.

    ``size`` and ``center`` are (2, N), height and width, in halves of the image about its middle.
    """
    turned = torch.where(mirrored, -size[1], size[1])
    zeros = torch.zeros_like(turned)
    across = torch.stack([turned, zeros, center[1]], dim=1)
    down = torch.stack([zeros, size[0], center[0]], dim=1)
    affine = torch.stack([across, down], dim=1).to(pixels.device, pixels.dtype)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=outside, align_corners=False)
