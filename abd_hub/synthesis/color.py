"""Jitters the colors of a batch, each image with its own factors and its own order of the four steps.

Torchvision's jitter takes one factor for a whole batch, so 50,000 images would need 200,000 calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True, eq=False)
class ColorDraws:
    """Holds the draws of jitter for n images, on the CPU because a device would delay each selection."""

    factors: Tensor
    """Holds (n, 4): brightness, contrast and saturation as factors, hue in turns of the color circle."""
    order: Tensor
    """Names the first, second, third and last of the four steps, (n, 4) int64."""
    applied: Tensor
    """Marks the images that are jittered, (n,) bool."""


def draw_colors(
    count: int, strength: tuple[float, float, float, float], share: float, chance: torch.Generator
) -> ColorDraws:
    """Draws jitter as torchvision's ColorJitter does.

    Args:
        count: n, the number of images.
        strength: s of brightness, contrast, saturation and hue. Factors are uniform in [1 - s, 1 + s], the
            turn of the hue in [-s, s].
        share: chance of each image to be jittered at all, in [0, 1].
        chance: CPU generator.
    """
    spread = torch.tensor(strength) * (2 * torch.rand(count, 4, generator=chance) - 1)
    factors = spread + torch.tensor([1.0, 1.0, 1.0, 0.0])
    order = torch.rand(count, 4, generator=chance).argsort(dim=1)
    return ColorDraws(factors, order, torch.rand(count, generator=chance) < share)


def jitter(pixels: Tensor, draws: ColorDraws) -> Tensor:
    """Applies the four steps and clamps to [0, 1] after each.

    Args:
        pixels: (n, 3, H, W) in [0, 1]; changed in place.
        draws: of the same n.

    Returns:
        ``pixels``.
    """
    factors = draws.factors.to(pixels.device, pixels.dtype)
    for place in range(4):
        for step in range(4):
            rows = (draws.applied & (draws.order[:, place] == step)).nonzero().squeeze(1).to(pixels.device)
            pixels[rows] = _adjusted(pixels[rows], step, factors[rows, step].view(-1, 1, 1, 1))
    return pixels


def gray(pixels: Tensor) -> Tensor:
    """Returns the luma of ITU-R BT.601: (n, 3, H, W) to (n, 1, H, W)."""
    weights = pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)


def _adjusted(pixels: Tensor, step: int, factor: Tensor) -> Tensor:
    """Applies one step of jitter; ``factor`` is (n, 1, 1, 1)."""
    if step == HUE:
        return _turned(pixels, factor)
    if step == BRIGHTNESS:
        other = torch.zeros_like(factor)
    elif step == CONTRAST:
        other = gray(pixels).mean(dim=(1, 2, 3), keepdim=True)
    else:
        other = gray(pixels)
    return (factor * pixels + (1 - factor) * other).clamp(0, 1)


def _turned(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue and keeps value and saturation of HSV."""
    value, low = pixels.amax(dim=1, keepdim=True), pixels.amin(dim=1, keepdim=True)
    chroma = value - low

    red, green, blue = pixels.unbind(dim=1)
    # A pixel without color has no hue. Any divisor will do, because its chroma of 0 cancels the hue.
    scale = torch.where(chroma > 0, chroma, torch.ones_like(chroma)).squeeze(1)
    # The hue counts sixths of a turn from red; the largest channel selects the formula.
    hue = torch.where(blue == value.squeeze(1), (red - green) / scale + 4, (green - blue) / scale)
    hue = torch.where(green == value.squeeze(1), (blue - red) / scale + 2, hue)
    hue = torch.where(red == value.squeeze(1), (green - blue) / scale, hue)

    hue = hue.unsqueeze(1) + 6 * turns
    offsets = pixels.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    distance = (hue + offsets) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)
