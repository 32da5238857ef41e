"""Patches of photographs: the augmented image prior (Asano & Saeed, ICLR 2023, arXiv 2112.00725).

One patch, in this order:
 1. a square of half the picture's short side, anywhere;
 2. in it a box of 1/500 to all of its area, 3/4 to 4/3 as wide as high, resized (bicubic, smoothed where it
    shrinks) to sqrt(2) times the size of the teacher's input: 45 pixels for 32;
 3. turned by up to 30 degrees and sheared by up to 30 degrees, bilinear, black outside;
 4. the middle of it in the teacher's size, mirrored with probability 1/2;
 5. colors jittered with probability 1/2: brightness, contrast, saturation by 0.4, hue by 0.1.

Published code goes through JPEG files; here patches are rounded to uint8 and stay on the device.

Step 2 is one call a patch, because every box has another size; the others are batched. 50,000 patches of
32x32 take 19 s on one AVX-512 core, 27 s from a picture of 2560x1920: boxes that shrink fourfold or more are
taken from a picture that was halved before, or step 2 alone would take 315 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.synthesis.color import ColorDraws, draw_colors, gray, jitter

AREA = (1 / 500, 1.0)
ASPECT = (3 / 4, 4 / 3)
DEGREES = 30.0
JITTER = (0.4, 0.4, 0.4, 0.1)
JITTER_SHARE = 0.5
_CHUNK = 1 << 24
"""Numbers in the frames that are worked on at once: 64 MiB, 2,700 frames of 45x45."""


@dataclass(frozen=True, eq=False)
class PatchDraws:
    """What becomes of each of n patches, on the CPU."""

    boxes: Tensor
    """(n, 4) int64: top, left, height and width in the picture."""
    turns: Tensor
    """(n,) in radians, clockwise on the screen."""
    shears: Tensor
    """(n,) in radians, along the rows."""
    mirrored: Tensor
    """(n,) bool."""
    colors: ColorDraws

    def rows(self, start: int, end: int) -> PatchDraws:
        """Those of some patches."""
        part = slice(start, end)
        colors = self.colors
        return PatchDraws(
            self.boxes[part],
            self.turns[part],
            self.shears[part],
            self.mirrored[part],
            ColorDraws(colors.factors[part], colors.order[part], colors.applied[part]),
        )


def make_patches(
    pictures: Sequence[Tensor],
    count: int,
    shape: tuple[int, int, int],
    seed: int,
    device: torch.device,
) -> Tensor:
    """Patch i is taken from picture i modulo their number; the same arguments give the same patches.

    Args:
        pictures: each (3, H, W) uint8, at least 64 pixels high and wide.
        count: n, patches in all.
        shape: of a patch, (C, height, width) with C 3, or 1 for gray.
        seed: of the draws.
        device: where they are made and kept.

    Returns:
        (n, C, height, width) uint8 on ``device``.
    """
    patches = torch.empty((count, *shape), dtype=torch.uint8, device=device)
    for index, picture in enumerate(pictures):
        places = torch.arange(index, count, len(pictures), device=device)
        draws = draw_patches(picture.shape[1], picture.shape[2], len(places), seed, index)
        levels = _halved(picture.to(device).float() / 255)
        for start, made in _made(levels, draws, shape):
            patches[places[start : start + len(made)]] = made
    return patches


def draw_patches(height: int, width: int, count: int, seed: int, picture: int) -> PatchDraws:
    """All draws for ``count`` patches of picture number ``picture``, which has this height and width."""
    chance = seeding.generator(seed, "ood", "patches", picture)
    boxes = _draw_boxes(height, width, count, chance)
    limit = math.radians(DEGREES)
    turns, shears = limit * (2 * torch.rand(2, count, generator=chance) - 1)
    mirrored = torch.rand(count, generator=chance) < 0.5
    return PatchDraws(boxes, turns, shears, mirrored, draw_colors(count, JITTER, JITTER_SHARE, chance))


def frame_side(side: int) -> int:
    """Pixels along an edge before the middle is cut out: sqrt(2) times as many."""
    return math.isqrt(2 * side * side)


def _draw_boxes(height: int, width: int, count: int, chance: torch.Generator) -> Tensor:
    """A box in a square in the picture, for each patch; a box that would stick out is drawn again."""
    side = min(height, width) // 2
    sizes = torch.zeros(count, 2, dtype=torch.int64)
    open_ = torch.arange(count)
    while len(open_):
        area = side * side * _uniform(AREA, len(open_), chance)
        aspect = _uniform((math.log(ASPECT[0]), math.log(ASPECT[1])), len(open_), chance).exp()
        tried = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=1).long()
        fits = ((tried > 0) & (tried <= side)).all(dim=1)
        sizes[open_[fits]] = tried[fits]
        open_ = open_[~fits]
    square = _places(torch.tensor([height - side, width - side]).expand(count, 2), chance)
    inside = _places(side - sizes, chance)
    return torch.cat([square + inside, sizes], dim=1)


def _uniform(between: tuple[float, float], count: int, chance: torch.Generator) -> Tensor:
    low, high = between
    return low + (high - low) * torch.rand(count, generator=chance, dtype=torch.float64)


def _places(largest: Tensor, chance: torch.Generator) -> Tensor:
    """Whole numbers from 0 to ``largest``, each as likely as the others."""
    return (torch.rand(largest.shape, generator=chance, dtype=torch.float64) * (largest + 1)).long()


def _halved(picture: Tensor) -> list[Tensor]:
    """The picture, and halved again and again while 64 pixels remain."""
    levels = [picture]
    while min(levels[-1].shape[1:]) >= 128:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _made(
    levels: Sequence[Tensor], draws: PatchDraws, shape: tuple[int, int, int]
) -> Iterator[tuple[int, Tensor]]:
    """Patches in chunks, each with the place of its first."""
    frame = (frame_side(shape[1]), frame_side(shape[2]))
    chunk = max(1, _CHUNK // (3 * frame[0] * frame[1]))
    for start in range(0, len(draws.boxes), chunk):
        part = draws.rows(start, start + chunk)
        boxes = part.boxes.tolist()
        frames = torch.cat([_resized(levels, box, frame) for box in boxes])
        pixels = jitter(_moved(frames, part, shape[1], shape[2]), part.colors)
        if shape[0] == 1:
            pixels = gray(pixels)
        yield start, (pixels * 255).round().to(torch.uint8)


def _resized(levels: Sequence[Tensor], box: Sequence[int], frame: tuple[int, int]) -> Tensor:
    """One box of the picture as (1, 3, *frame)."""
    top, left, height, width = box
    shrinks = min(height / frame[0], width / frame[1])
    level = min(max(0, math.floor(math.log2(shrinks)) - 1), len(levels) - 1)
    top, left, height, width = (number >> level for number in (top, left, height, width))
    crop = levels[level][None, :, top : top + height, left : left + width]
    # bicubic overshoots at edges
    return F.interpolate(crop, frame, mode="bicubic", antialias=True).clamp(0, 1)


def _moved(frames: Tensor, draws: PatchDraws, height: int, width: int) -> Tensor:
    """Turned and sheared around the middle, cut to (height, width), mirrored."""
    rows, columns = frames.shape[2:]
    turns, shears = (t.to(frames.device, frames.dtype) for t in (draws.turns, draws.shears))
    cos, sin, slope = turns.cos(), turns.sin(), shears.tan()
    # What comes out at (x, y) lies in the frame at shear^-1 turn^-1 (x, y), all measured from its middle.
    back = torch.stack(
        [torch.stack([cos - slope * sin, sin + slope * cos], -1), torch.stack([-sin, cos], -1)], -2
    )
    x = torch.arange(width, device=frames.device) + (columns - width) // 2 - (columns - 1) / 2
    y = torch.arange(height, device=frames.device) + (rows - height) // 2 - (rows - 1) / 2
    wanted = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(frames.dtype)
    # grid_sample counts from the middle in halves of the frame
    grid = (wanted.view(1, -1, 2) @ back.transpose(1, 2)).view(-1, height, width, 2)
    grid = grid * (2 / grid.new_tensor([columns, rows]))
    moved = F.grid_sample(frames, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    mirrored = draws.mirrored.to(frames.device).view(-1, 1, 1, 1)
    return torch.where(mirrored, moved.flip(3), moved)
