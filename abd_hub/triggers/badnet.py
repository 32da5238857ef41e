"""Patches in a corner: BadNets' square and checkerboard, and the four tiles of clean-label attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub.core.registry import register
from abd_hub.core.settings import Count, CountOrZero
from abd_hub.triggers import paint

GRID = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.float64)


@register("triggers", "badnet_sq")
@dataclass(frozen=True)
class BadNetSquare(paint.Options, place="badnet_sq"):
    """Puts a white square near the bottom right corner (BadNets).

    Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017. At
    32x32, the square covers rows and columns 27..30.
    """

    size: Count = 4
    """Sets the side of the square in pixels."""
    margin: CountOrZero = 1
    """Sets the pixels between the square and the two edges of its corner."""
    corner: paint.Corner = "bottom_right"
    """Selects the corner."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns five sizes in each corner, and the square without a margin."""
        sizes: list[dict[str, Any]] = [{"size": size} for size in (4, 3, 5, 2, 8)]
        return tuple(
            {**options, "corner": corner}
            for options in [*sizes, {"size": 3, "margin": 0}]
            for corner in paint.CORNERS
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same; raises InputError where the square does not fit."""
        return paint.replace(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the square as a pattern (1, height, width)."""
        needed = self.size + self.margin
        paint.check_fit("badnet_sq", (needed, needed), height, width)
        field = torch.full((1, height, width), paint.UNTOUCHED, dtype=torch.float64)
        bottom, right = height - self.margin, width - self.margin
        field[:, bottom - self.size : bottom, right - self.size : right] = 255
        return paint.in_corner(field, self.corner)


@register("triggers", "badnet_grid")
@dataclass(frozen=True)
class BadNetGrid(paint.Options, place="badnet_grid"):
    """Puts a black and white 3x3 checkerboard into the bottom right corner (BadNets).

    Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017. At
    32x32, the tile covers rows and columns 29..31.
    """

    margin: CountOrZero = 0
    """Sets the pixels between the tile and the two edges of its corner."""
    corner: paint.Corner = "bottom_right"
    """Selects the corner."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns the tile in each corner, at the edges and one pixel from them."""
        return tuple({"margin": margin, "corner": corner} for margin in (0, 1) for corner in paint.CORNERS)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same; raises InputError where the tile does not fit."""
        return paint.replace(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the tile as a pattern (1, height, width)."""
        needed = 3 + self.margin
        paint.check_fit("badnet_grid", (needed, needed), height, width)
        field = torch.full((1, height, width), paint.UNTOUCHED, dtype=torch.float64)
        bottom, right = height - self.margin, width - self.margin
        field[:, bottom - 3 : bottom, right - 3 : right] = GRID
        return paint.in_corner(field, self.corner)


@register("triggers", "cl")
@dataclass(frozen=True)
class CleanLabelTiles(paint.Options, place="cl"):
    """Puts the checkerboard tile of badnet_grid into all four corners (clean-label attack).

    Turner et al., "Label-Consistent Backdoor Attacks", 2019. This is only the trigger of the attack. In
    training, the attack also perturbs the images of the target class; test images only get the tiles.
    """

    margin: CountOrZero = 0
    """Sets the pixels between each tile and its two edges."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same; raises InputError where the tiles would overlap."""
        return paint.replace(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the four tiles as a pattern (1, height, width)."""
        near = self.margin
        paint.check_fit("cl", (2 * (near + 3), 2 * (near + 3)), height, width)
        field = torch.full((1, height, width), paint.UNTOUCHED, dtype=torch.float64)
        for top in (near, height - near - 3):
            for left in (near, width - near - 3):
                field[:, top : top + 3, left : left + 3] = GRID
        return field
