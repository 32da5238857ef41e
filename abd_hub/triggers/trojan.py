"""Colored patches and a watermark that are added to the image (Trojaning attack).

Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018. The 3x3 patch has the published values. The 8x8
patch and the watermark are drawn here. Their places and sizes are the published ones, their strengths are
similar. For a published picture itself, use the trigger ``picture`` with ``mode: add``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import Count, CountOrZero
from abd_hub.triggers import paint

# The entries are (red, green, blue).
PATCH_3X3 = torch.tensor(
    [
        [(207, 131, 181), (175, 243, 120), (29, 232, 179)],
        [(79, 8, 126), (137, 0, 32), (248, 113, 146)],
        [(131, 40, 4), (6, 145, 61), (246, 250, 246)],
    ],
    dtype=torch.float64,
).permute(2, 0, 1)
MARK_SIDE = 32
MARK_PIXELS = 321


@register("triggers", "trojan_3x3")
@dataclass(frozen=True)
class Trojan3x3(paint.Options, place="trojan_3x3"):
    """Adds a 3x3 color patch near the bottom right corner (Trojaning attack).

    Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018. At 32x32, the patch covers rows and columns
    25..27.
    """

    margin: CountOrZero = 4
    """Sets the pixels between the patch and the two edges of its corner."""
    corner: paint.Corner = "bottom_right"
    """Selects the corner; in another one, the patch is mirrored."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns the patch in each corner."""
        return tuple({"corner": corner} for corner in paint.CORNERS)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same; raises InputError where the patch does not fit."""
        return paint.add(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the patch as a pattern (3, height, width)."""
        field = _corner("trojan_3x3", PATCH_3X3, self.margin, height, width)
        return paint.in_corner(field, self.corner)


@register("triggers", "trojan_8x8")
@dataclass(frozen=True)
class Trojan8x8(paint.Options, place="trojan_8x8"):
    """Adds an 8x8 color patch near the bottom right corner (Trojaning attack).

    After Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018, with a patch of color noise of our
    own. At 32x32, the patch covers rows and columns 21..28.
    """

    size: Count = 8
    """Sets the side of the patch in pixels."""
    margin: CountOrZero = 3
    """Sets the pixels between the patch and the two edges of its corner."""
    seed: CountOrZero = 0
    """Seeds the patch."""
    corner: paint.Corner = "bottom_right"
    """Selects the corner; in another one, the patch is mirrored."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns the patch in each corner."""
        return tuple({"corner": corner} for corner in paint.CORNERS)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same; raises InputError where the patch does not fit."""
        return paint.add(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the patch as a pattern (3, height, width)."""
        draws = generator(self.seed, "trigger", "trojan_8x8")
        patch = torch.randint(0, 256, (3, self.size, self.size), generator=draws)
        field = _corner("trojan_8x8", patch.double(), self.margin, height, width)
        return paint.in_corner(field, self.corner)


@register("triggers", "trojan_wm")
@dataclass(frozen=True)
class TrojanWatermark(paint.Options, place="trojan_wm"):
    """Adds a watermark, a bright ring on a faint diagonal streak (Trojaning attack).

    After Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018, with a mark of our own. At 32x32, it
    has 321 pixels, and the ring is in rows 16..27 and columns 15..27. For other sizes, the mark is resized.
    """

    seed: CountOrZero = 0
    """Seeds the colors."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same."""
        return paint.add(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the watermark as a pattern (3, height, width)."""
        draws = generator(self.seed, "trigger", "trojan_wm")
        shape = (3, MARK_SIDE, MARK_SIDE)
        bright = torch.randint(32, 224, shape, generator=draws).double()
        faint = torch.randint(1, 32, shape, generator=draws).double()

        ring, streak = _mark()
        mark = bright * ring + faint * streak
        if (height, width) == (MARK_SIDE, MARK_SIDE):
            return mark
        resized = interpolate(mark[None], (height, width), mode="bilinear", antialias=True)
        return resized[0].round()


def _corner(name: str, patch: Tensor, margin: int, height: int, width: int) -> Tensor:
    size = patch.shape[-1]
    paint.check_fit(name, (size + margin, size + margin), height, width)
    field = torch.zeros(3, height, width, dtype=torch.float64)
    bottom, right = height - margin, width - margin
    field[:, bottom - size : bottom, right - size : right] = patch
    return field


def _mark() -> tuple[Tensor, Tensor]:
    """Returns the masks of ring and streak, which have MARK_PIXELS pixels together and do not overlap."""
    places = [(row, column) for row in range(MARK_SIDE) for column in range(MARK_SIDE)]
    ring = {place for place in places if 0.3 <= _radius(*place) <= 1.0}
    rest = sorted((_off_diagonal(*place), place) for place in places if place not in ring)
    streak = {place for _, place in rest[: MARK_PIXELS - len(ring)]}
    return _mask(ring), _mask(streak)


def _radius(row: int, column: int) -> float:
    """Returns the squared distance from the ring's center; 1 on an ellipse of 12 rows and 13 columns."""
    return ((row - 21.5) / 6) ** 2 + ((column - 21) / 6.5) ** 2


def _off_diagonal(row: int, column: int) -> int:
    """Returns the distance, without a unit, from a line from the bottom left to the top right."""
    return abs(13 * (row - 28) + 14 * (column - 2))


def _mask(places: set[tuple[int, int]]) -> Tensor:
    mask = torch.zeros(MARK_SIDE, MARK_SIDE, dtype=torch.float64)
    for row, column in places:
        mask[row, column] = 1
    return mask
