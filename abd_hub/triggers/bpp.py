"""A trigger that reduces the colors of the image, with dithering.

Wang et al., "BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import pad

from abd_hub.core.errors import InputError
from abd_hub.core.registry import register
from abd_hub.core.settings import Range
from abd_hub.triggers import paint

# Dithering uses whole numbers, so that every device and dtype gives the same result. With floats, a rounding
# error in one pixel would change all that follow. A level is 2**40 units; float32 resolves 2**24.
SHIFT = 40


@register("triggers", "bpp")
@dataclass(frozen=True)
class Bpp(paint.Options, place="bpp"):
    """Reduces the bits of each channel, with dithering (BppAttack).

    Wang et al., "BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
    Quantization and Contrastive Adversarial Learning", CVPR 2022.

    Each channel is rounded to ``2**bits`` levels, and the error of a pixel is spread over the next ones
    (Floyd & Steinberg, 1976). A cover image is the paper's negative sample, an image plus the quantization
    error of another one. Gradients pass through the rounding unchanged.
    """

    bits: Annotated[int, Range(least=1, most=8)] = 5
    """Sets how many of the 8 bits of a channel are left."""
    dithering: bool = True
    """Spreads the error of each pixel over its neighbors (Floyd-Steinberg); else each is rounded alone."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same."""
        return self._quantized(paint.working(pixels)).to(pixels.dtype)

    def cover(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """Returns each image plus the residual of another image in the batch, clipped to [0,1].

        Args:
            pixels: (N, C, H, W) float in [0,1].
            chance: a CPU generator, which draws the other images.

        Raises:
            InputError: there is no other image.
        """
        canvas = paint.working(pixels)
        if len(canvas) < 2:
            raise InputError(
                f"trigger bpp: a cover needs another image, but the batch has {len(canvas)}; use 2 or more"
            )

        residual = self._quantized(canvas) - canvas
        # Images on a random circle pass their residuals on, so each is used once, but not by its own image.
        circle = torch.randperm(len(canvas), generator=chance)
        other = torch.empty_like(circle)
        other[circle] = circle.roll(1)
        return (canvas + residual[other.to(canvas.device)]).clamp(0, 1).to(pixels.dtype)

    def _quantized(self, canvas: Tensor) -> Tensor:
        top: int = 2**self.bits - 1
        levels = canvas.detach() * top
        whole = _dithered(levels, top) if self.dithering else levels.round()
        # The carrier is zero, but it has the gradient.
        carrier = canvas - canvas.detach()
        return carrier + whole / top


def _dithered(levels: Tensor, top: int) -> Tensor:
    """Rounds to the whole levels 0..top by Floyd and Steinberg's error diffusion, from the top left by rows.

    The error of a pixel goes to its right neighbor (7/16) and to three pixels in the row below, from left to
    right (3/16, 5/16, 1/16). Errors that leave the image are lost. Pixels with the same
    ``column + 2 * row`` do not depend on each other, so all of them are computed at once. At moment t, row r
    is at column t - 2r, in all images and channels.

    Args:
        levels: (N, C, H, W) float in [0, top].
        top: the largest level.

    Returns:
        Whole numbers in the dtype of ``levels``.
    """
    count, channels, height, width = levels.shape

    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = ((columns + 2 * rows).to(levels.device), rows.to(levels.device))
    units = levels.mul(2**SHIFT).round().long().permute(2, 3, 0, 1).reshape(height, width, count * channels)
    moments = units.new_zeros(width + 2 * (height - 1), height, units.shape[2])
    moments[place] = units
    inside = torch.zeros_like(moments[..., :1])
    inside[place] = 1

    last = second = third = torch.zeros_like(moments[0])
    for now, real in zip(moments, inside, strict=True):
        from_above = pad(3 * last + 5 * second + third, (0, 0, 1, 0))[:-1]
        wanted = now + ((7 * last + from_above + 8) >> 4)
        chosen = ((wanted + 2 ** (SHIFT - 1)) >> SHIFT).clamp(0, top)
        now.copy_(chosen)
        last, second, third = (wanted - (chosen << SHIFT)) * real, last, second

    return moments[place].view(height, width, count, channels).permute(2, 3, 0, 1).to(levels.dtype)
