"""Makes patches of photographs: the augmented image prior (Asano & Saeed, ICLR 2023, arXiv 2112.00725).

Each patch takes five steps.

 1. Draw a square of half the picture's short side, anywhere.

 2. Draw a box in the square, with 1/500 to all of its area, 3/4 to 4/3 as wide as high. Resize the box
    (bicubic, smoothed where it shrinks) to sqrt(2) times the teacher's input, 45 pixels for 32.

 3. Turn by up to 30 degrees and shear by up to 30 degrees, bilinear, with black outside.

 4. Cut out the middle in the teacher's size, and mirror it with probability 1/2.

 5. Jitter the colors with probability 1/2: brightness, contrast and saturation by 0.4, hue by 0.1.

The published code writes JPEG files. Here patches are rounded to uint8 and stay on the device.

Every box has another size, so step 2 is one call a patch. The other steps are batched. 50,000 patches of
32x32 take 19 s on one AVX-512 core, and 27 s from a picture of 2560x1920. Boxes that shrink fourfold or more
come from a picture that was halved before. Otherwise step 2 alone would take 315 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.learning.progress import progress
from abd_hub.synthesis.color import ColorDraws, draw_colors, gray, jitter

AREA = (1 / 500, 1.0)
ASPECT = (3 / 4, 4 / 3)
DEGREES = 30.0
JITTER = (0.4, 0.4, 0.4, 0.1)
JITTER_SHARE = 0.5
_CHUNK = 1 << 24
"""Limits the numbers in the frames of one chunk: 64 MiB, 2,700 frames of 45x45."""


@dataclass(frozen=True, eq=False)
class PatchDraws:
    """Holds all draws for n patches, on the CPU."""

    boxes: Tensor
    """Holds (n, 4) int64: top, left, height and width in the picture."""
    turns: Tensor
    """Holds (n,) angles in radians, clockwise on the screen."""
    shears: Tensor
    """Holds (n,) angles in radians, along the rows."""
    mirrored: Tensor
    """Marks the patches that are mirrored, (n,) bool."""
    colors: ColorDraws

    def rows(self, start: int, end: int) -> PatchDraws:
        """Returns the draws of the patches from ``start`` up to, without, ``end``."""
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
    """Makes patches, patch i from picture i modulo the number of pictures.

    The same arguments give the same patches.

    Args:
        pictures: each (3, H, W) uint8, at least 64 pixels high and wide.
        count: n, the number of patches.
        shape: (C, height, width) of a patch, with C 3, or 1 for gray.
        seed: seed of the draws.
        device: makes and keeps the patches.

    Returns:
        (n, C, height, width) uint8 on ``device``.
    """
    patches = torch.empty((count, *shape), dtype=torch.uint8, device=device)
    with progress(count, unit="image", name="patches", leave=False) as bar:
        for index, picture in enumerate(pictures):
            places = torch.arange(index, count, len(pictures), device=device)
            draws = draw_patches(picture.shape[1], picture.shape[2], len(places), seed, index)
            levels = _halved(picture.to(device).float() / 255)
            for start, chunk in _chunks(levels, draws, shape):
                patches[places[start : start + len(chunk)]] = chunk
                bar.update(len(chunk))
    return patches


def draw_patches(height: int, width: int, count: int, seed: int, picture: int) -> PatchDraws:
    """Makes all draws for ``count`` patches of picture number ``picture``.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        count: patches of this picture.
        seed: seed of the draws.
        picture: number of the picture, from 0.
    """
    generator = seeding.generator(seed, "ood", "patches", picture)
    boxes = _draw_boxes(height, width, count, generator)
    limit = math.radians(DEGREES)
    turns, shears = limit * (2 * torch.rand(2, count, generator=generator) - 1)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return PatchDraws(boxes, turns, shears, mirrored, draw_colors(count, JITTER, JITTER_SHARE, generator))


def frame_side(side: int) -> int:
    """Returns the edge of a patch before its middle is cut out, sqrt(2) times ``side`` in pixels."""
    return math.isqrt(2 * side * side)


def _draw_boxes(height: int, width: int, count: int, generator: torch.Generator) -> Tensor:
    """Draws a box in a square in the picture for each patch; a box that exceeds its square is drawn again."""
    side = min(height, width) // 2
    sizes = torch.zeros(count, 2, dtype=torch.int64)
    missing = torch.arange(count)
    while len(missing):
        area = side * side * _uniform(AREA, len(missing), generator)
        aspect = _uniform((math.log(ASPECT[0]), math.log(ASPECT[1])), len(missing), generator).exp()
        tried = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], dim=1).long()
        fits = ((tried > 0) & (tried <= side)).all(dim=1)
        sizes[missing[fits]] = tried[fits]
        missing = missing[~fits]

    square = _places(torch.tensor([height - side, width - side]).expand(count, 2), generator)
    inside = _places(side - sizes, generator)
    return torch.cat([square + inside, sizes], dim=1)


def _uniform(between: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """Draws (count,) float64, uniform between two limits."""
    low, high = between
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def _places(largest: Tensor, generator: torch.Generator) -> Tensor:
    """Draws whole numbers from 0 to ``largest``, all equally likely."""
    return (torch.rand(largest.shape, generator=generator, dtype=torch.float64) * (largest + 1)).long()


def _halved(picture: Tensor) -> list[Tensor]:
    """Returns the picture and its repeated halves, as long as the short side keeps 64 pixels."""
    levels = [picture]
    while min(levels[-1].shape[1:]) >= 128:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _chunks(
    levels: Sequence[Tensor], draws: PatchDraws, shape: tuple[int, int, int]
) -> Iterator[tuple[int, Tensor]]:
    """Yields patches in chunks, each after the place of its first patch."""
    frame = (frame_side(shape[1]), frame_side(shape[2]))
    chunk = max(1, _CHUNK // (3 * frame[0] * frame[1]))
    for start in range(0, len(draws.boxes), chunk):
        part = draws.rows(start, start + chunk)
        frames = torch.cat([_resized(levels, box, frame) for box in part.boxes.tolist()])
        pixels = jitter(_moved(frames, part, shape[1], shape[2]), part.colors)
        if shape[0] == 1:
            pixels = gray(pixels)
        yield start, (pixels * 255).round().to(torch.uint8)


def _resized(levels: Sequence[Tensor], box: Sequence[int], frame: tuple[int, int]) -> Tensor:
    """Resizes one box of the picture to (1, 3, *frame)."""
    top, left, height, width = box
    shrinks = min(height / frame[0], width / frame[1])
    level = min(max(0, math.floor(math.log2(shrinks)) - 1), len(levels) - 1)
    top, left, height, width = (number >> level for number in (top, left, height, width))
    crop = levels[level][None, :, top : top + height, left : left + width]
    # Clamped, because bicubic interpolation overshoots at edges.
    return F.interpolate(crop, frame, mode="bicubic", antialias=True).clamp(0, 1)


def _moved(frames: Tensor, draws: PatchDraws, height: int, width: int) -> Tensor:
    """Turns and shears frames around the middle, cuts them to (height, width), and mirrors them."""
    rows, columns = frames.shape[2:]
    turns, shears = (t.to(frames.device, frames.dtype) for t in (draws.turns, draws.shears))
    cos, sin, slope = turns.cos(), turns.sin(), shears.tan()

    # The output at (x, y) comes from shear^-1 turn^-1 (x, y) in the frame, measured from its middle.
    back = torch.stack(
        [torch.stack([cos - slope * sin, sin + slope * cos], -1), torch.stack([-sin, cos], -1)], -2
    )
    x = torch.arange(width, device=frames.device) + (columns - width) // 2 - (columns - 1) / 2
    y = torch.arange(height, device=frames.device) + (rows - height) // 2 - (rows - 1) / 2
    wanted = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(frames.dtype)

    # grid_sample counts from the middle, in halves of the frame.
    grid = (wanted.view(1, -1, 2) @ back.transpose(1, 2)).view(-1, height, width, 2)
    grid = grid * (2 / grid.new_tensor([columns, rows]))
    moved = F.grid_sample(frames, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    mirrored = draws.mirrored.to(frames.device).view(-1, 1, 1, 1)
    return torch.where(mirrored, moved.flip(3), moved)
