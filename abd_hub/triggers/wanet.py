"""A smooth, hardly visible warp of the whole image.

Nguyen & Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import CountOrZero, Range
from abd_hub.triggers import paint


@register("triggers", "wanet")
@dataclass(frozen=True)
class WaNet(paint.Options, place="wanet"):
    """Warps the whole image smoothly (WaNet).

    Nguyen & Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021.

    The field has ``size`` x ``size`` displacements from U[-1, 1], divided by their mean absolute value. They
    are enlarged to the images' size (the paper's field P, bicubic). A pixel is then read at a distance of
    ``strength`` times its displacement over the image's length. As the image reaches from -1 to 1, this is
    about a quarter of a pixel.

    A cover image is warped with noise on top of the field. The paper poisons a tenth of the images and covers
    two tenths.
    """

    strength: paint.Level = 0.5
    """Sets the paper's s, how far the field moves a pixel."""
    size: Annotated[int, Range(least=2)] = 4
    """Sets the paper's k, the number of displacements along each side."""
    seed: CountOrZero = 0
    """Seeds the field."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same."""
        canvas = paint.working(pixels)
        return _read(canvas, self.grid(*canvas.shape[2:])).to(pixels.dtype)

    def cover(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """Warps in the paper's noise mode, where each grid gets U[-1, 1] over the image's length on top."""
        canvas = paint.working(pixels)
        grid = self.grid(*canvas.shape[2:])
        noise = torch.rand(len(canvas), *grid.shape[1:], dtype=torch.float64, generator=chance) * 2 - 1
        noisy = (grid + noise / _lengths(canvas)).clamp(-1, 1)
        return _read(canvas, noisy).to(pixels.dtype)

    def grid(self, height: int, width: int) -> Tensor:
        """Returns where each pixel is read: float64 (1, height, width, 2), (x, y) from -1 to 1."""
        draws = generator(self.seed, "trigger", "wanet")
        field = torch.rand(1, 2, self.size, self.size, dtype=torch.float64, generator=draws) * 2 - 1
        field = field / field.abs().mean()
        field = interpolate(field, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

        rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        identity = torch.stack((x, y), dim=-1)
        return (identity + self.strength * field / _lengths(field.permute(0, 3, 1, 2))).clamp(-1, 1)


def _lengths(images: Tensor) -> Tensor:
    """Returns (width, height), the paper's H for each axis of images that need not be square."""
    return torch.tensor([images.shape[3], images.shape[2]], dtype=torch.float64)


def _read(canvas: Tensor, grid: Tensor) -> Tensor:
    grid = grid.to(canvas).expand(len(canvas), -1, -1, -1)
    # Only rounding can put a weighted mean of pixels outside [0,1].
    return grid_sample(canvas, grid, align_corners=True).clamp(0, 1)
