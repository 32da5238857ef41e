"""Augments images that are already one tensor on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core.errors import InputError


def check_padding(field: str, padding: int, height: int, width: int) -> None:
    """Refuses a padding so large that a crop could lie outside the image.

    Args:
        field: the name that the error begins with.
        padding: on each side, in pixels.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Raises:
        InputError: the padding is as large as the shorter side, or larger.
    """
    if padding >= min(height, width):
        raise InputError(
            f"{field}: with {padding} pixels around images of {height}x{width}, a crop can miss the image; "
            f"use less than {min(height, width)}"
        )


def crop_and_flip(
    pixels: Tensor, padding: int, flip: bool, chance: torch.Generator, share: tuple[int, int] = (0, 1)
) -> Tensor:
    """Pads with black, crops each image at its own random place, and mirrors half of the images.

    Args:
        pixels: (N, C, H, W).
        padding: on each side, in pixels; 0 leaves the images in place.
        flip: whether to mirror left and right with probability one half.
        chance: CPU generator, so that all devices see the same draw.
        share: (i, k) for the i-th of k equal parts of a batch; draws are made for the whole batch.

    Returns:
        (N, C, H, W), same dtype.
    """
    n, _, height, width = pixels.shape
    parts, first = share[1], share[0] * n

    shift = torch.randint(2 * padding + 1, (2, n * parts), generator=chance)[:, first : first + n]
    mirrored = torch.rand(n * parts, generator=chance)[first : first + n] < (0.5 if flip else 0.0)

    rows = shift[0, :, None] + torch.arange(height)
    columns = torch.where(mirrored[:, None], torch.arange(width).flip(0), torch.arange(width))
    columns = shift[1, :, None] + columns

    padded = F.pad(pixels, (padding,) * 4)
    image = torch.arange(n)[:, None, None]
    where = [index.to(pixels.device) for index in (image, rows[:, :, None], columns[:, None, :])]
    return padded.permute(0, 2, 3, 1)[where[0], where[1], where[2]].permute(0, 3, 1, 2).contiguous()


def draw_box(height: int, width: int, share: float, chance: torch.Generator) -> tuple[int, int, int, int]:
    """Draws the box of CutMix (Yun et al., ICCV 2019, arXiv 1905.04899, section 3.1).

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        share: of their area, in [0, 1]. The sides are rounded down to even numbers of pixels, and any part
            outside the image is cut off.
        chance: CPU generator for the middle of the box, which may be any pixel.

    Returns:
        top, left, bottom, right; the last two are the first row and column beyond the box. The box may be
        empty.
    """
    row = int(torch.randint(height, (), generator=chance))
    column = int(torch.randint(width, (), generator=chance))
    half_height, half_width = (int(side * share**0.5) // 2 for side in (height, width))
    return (
        max(row - half_height, 0),
        max(column - half_width, 0),
        min(row + half_height, height),
        min(column + half_width, width),
    )


def cutmix(pixels: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Pastes the box of the last image into the first, of the last but one into the second, and so on.

    Args:
        pixels: (N, C, H, W).
        box: top, left, bottom, right, the same for all.

    Returns:
        (N, C, H, W), same dtype. A caller with labels must mix them by the box's share of the area. A caller
        that learns the teacher's answers to the mixed images has nothing to mix.
    """
    top, left, bottom, right = box
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[:, :, top:bottom, left:right].flip(0)
    return mixed
