"""Random views of images, differentiable and on the device, as contrastive learning takes them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cropped(
    pixels: Tensor, padding: int, flip: bool, chance: torch.Generator, share: tuple[int, int] = (0, 1)
) -> Tensor:
    """Pads with black, crops each image at its own random place, mirrors half of them.

    Args:
        pixels: (N, C, H, W); the gradient flows through.
        padding: on each side, in pixels; 0 leaves the images in place.
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.
        share: (i, k) where the images are the i-th of k equal parts of a batch, for all of which is drawn.

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
    """A random box of each image, resized to the whole image bilinearly; half of them mirrored.

    The area is uniform in [``least_area``, 1] of the image, the logarithm of the aspect ratio in that of
    [3/4, 4/3]; a side that would be longer than the image is cut.

    Args:
        pixels: (N, C, H, W); the gradient flows through.
        least_area: share of the image, in (0, 1].
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.
        share: (i, k) where the images are the i-th of k equal parts of a batch, for all of which is drawn.

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
    """How many images are drawn for, and which of the draws are those of the given ones."""
    (index, parts), n = share, pixels.shape[0]
    return n * parts, slice(index * n, (index + 1) * n)


def _boxes(pixels: Tensor, size: Tensor, center: Tensor, mirrored: Tensor, outside: str) -> Tensor:
    """Size and center of each box as (2, N): height and width, in halves of the image about its middle."""
    turned = torch.where(mirrored, -size[1], size[1])
    zeros = torch.zeros_like(turned)
    across = torch.stack([turned, zeros, center[1]], dim=1)
    down = torch.stack([zeros, size[0], center[0]], dim=1)
    affine = torch.stack([across, down], dim=1).to(pixels.device, pixels.dtype)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=outside, align_corners=False)
