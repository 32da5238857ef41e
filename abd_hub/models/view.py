"""A view turns an image of any size into the pixels of a network's input, as the checkpoint states it.

It resizes and crops. Pillow's filters are used, because checkpoints were trained on images that Pillow
resized. A view is differentiable, except for ``nearest``. Sides are in pixels, and a pair is (height, width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from abd_hub.core.errors import InputError
from abd_hub.models.resampling import resample

CROP_MODES = ("center", "squash", "border")
"""Names timm's ways to make a rectangle of another shape fit."""
DEFAULT_CROP_PCT = 0.875
"""timm's value where a configuration states none."""
MOST_PIXELS = 1 << 26
"""Most pixels of a resized image: a strip of 1 x 10,000 would otherwise take gigabytes."""
GRAY = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in Pillow's mode L."""

Resize = Literal["none", "exact", "shortest", "capped", "within", "cover", "contain", "square"]


@dataclass(frozen=True, kw_only=True)
class View:
    """Says how an image becomes the pixels of a network's input.

    The resize modes are:

    - ``none`` keeps the image's size.
    - ``exact`` resizes to ``edges``, whatever the image's shape.
    - ``shortest`` resizes the shorter side to ``edges[0]`` and keeps the shape.
    - ``capped`` does the same, but the longer side gets at most ``edges[1]``.
    - ``within`` makes the image as large as fits into ``edges``, and rounds down.
    - ``cover`` makes the image as small as covers ``edges``, and rounds to the nearest.
    - ``contain`` makes the image as large as fits into ``edges``, and rounds to the nearest.
    - ``square`` crops first, to the share ``size / edges`` of the shorter side, and then resizes to ``size``.
    """

    size: tuple[int, int]
    """Height and width of the network's input."""
    resize: Resize = "exact"
    """Names the way to resize."""
    edges: tuple[int, int]
    """Holds the sides that ``resize`` uses."""
    cropped: bool = False
    """Says whether the middle is cut out in the end; an image that is too small gets a margin."""
    rounds: Literal["even", "down"] = "even"
    """Rounds the place of the crop to the nearest (timm, torchvision) or down (transformers)."""
    fill: tuple[float, ...] = ()
    """Holds the margin's color, one number a channel in [0, 1]; black if empty."""
    interpolation: str = "bilinear"
    """Names Pillow's filter, one of ``INTERPOLATIONS``."""
    crop_pct: float | None = field(default=None, compare=False)
    """Holds timm's number as it was stated; None where sides were stated."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns the network's pixels, (N, C, *size), of floating images (N, C, H, W) in [0, 1].

        Raises:
            InputError: the result has another size, which only ``none`` allows, or a resized image is too
                large.
        """
        if self.resize == "square":
            side = min(pixels.shape[-2:])
            share = [int(own / edge * side) for own, edge in zip(self.size, self.edges, strict=True)]
            pixels = self._cut(pixels, (share[0], share[1]))
            return resample(pixels, self.size, self.interpolation)

        target = self._target(*pixels.shape[-2:])
        if target != tuple(pixels.shape[-2:]):
            _check_size(tuple(pixels.shape[-2:]), target)
            pixels = resample(pixels, target, self.interpolation)
        if self.cropped:
            pixels = self._cut(pixels, self.size)
        if tuple(pixels.shape[-2:]) != self.size:
            wanted = "x".join(map(str, self.size))
            raise InputError(
                f"pixels: an image has {pixels.shape[-2]}x{pixels.shape[-1]}, and the model's images are not "
                f"resized but have {wanted}; use such images, or set crop_mode to squash to resize all "
                "of them"
            )
        return pixels

    @property
    def crop_mode(self) -> str:
        """Returns the mode of timm that does the same, or nearly the same."""
        if self.resize == "exact":
            return "squash"
        return "border" if self.resize in ("contain", "within") else "center"

    @property
    def stated_pct(self) -> float:
        """Returns timm's crop_pct: the input's side over the resized side."""
        if self.crop_pct is not None:
            return self.crop_pct
        if self.resize in ("none", "within"):
            return 1.0
        share = self.size[0] / self.edges[0]
        # timm rounds down, and a quotient just above a whole number must not lose a pixel.
        exact = math.floor(self.size[0] / share) == self.edges[0]
        return share if exact else self.size[0] / (self.edges[0] + 0.5)

    def scaled(self, size: tuple[int, int]) -> View:
        """Returns the view for a network of another input, with the same ratio of resize to crop."""
        if size == self.size:
            return self
        if self.crop_pct is not None:
            edges = _edges(size, self.crop_pct)
        else:
            ratios = zip(self.edges, size, self.size, strict=True)
            first, second = (max(1, edge * new // old) for edge, new, old in ratios)
            edges = (first, second)
        resize = "cover" if self.resize == "shortest" and edges[0] != edges[1] else self.resize
        return replace(self, size=size, edges=edges, resize=resize)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size to which an image is resized."""
        if self.resize == "none":
            return height, width
        if self.resize == "exact":
            return self.edges
        if self.resize == "shortest":
            return _shortest(height, width, self.edges[0])
        if self.resize == "capped":
            return _capped(height, width, *self.edges)
        if self.resize == "within":
            factor = min(self.edges[0] / height, self.edges[1] / width)
            return int(height * factor), int(width * factor)

        ratios = height / self.edges[0], width / self.edges[1]
        ratio = max(ratios) if self.resize == "contain" else min(ratios)
        return round(height / ratio), round(width / ratio)

    def _cut(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns the middle of images; one that is too small gets a margin first."""
        pixels = self._padded(pixels, size)
        spare = [have - want for have, want in zip(pixels.shape[-2:], size, strict=True)]
        top, left = (n // 2 if self.rounds == "down" else round(n / 2) for n in spare)
        return pixels[..., top : top + size[0], left : left + size[1]]

    def _padded(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        lacks = [max(0, want - have) for have, want in zip(pixels.shape[-2:], size, strict=True)]
        if not any(lacks):
            return pixels
        high, wide = lacks
        margins = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        padded = F.pad(pixels, margins)
        if not self.fill:
            return padded
        outside = F.pad(torch.zeros_like(pixels[:1, :1]), margins, value=1.0)
        return padded + outside * pixels.new_tensor(self.fill).view(1, -1, 1, 1)


def timm_view(
    size: tuple[int, int],
    crop_pct: float = 1.0,
    crop_mode: str = "squash",
    interpolation: str = "bilinear",
    mean: tuple[float, ...] = (),
    *,
    rounds: Literal["even", "down"] = "even",
) -> View:
    """Returns the view of timm's evaluation.

    Args:
        size: height and width of the network's input.
        crop_pct: the input's side over the side of the resized image.
        crop_mode: ``center`` keeps the shape and cuts what is too long. ``squash`` resizes the whole image.
            ``border`` keeps the whole image and its shape, with a margin of the mean color.
        interpolation: one of ``INTERPOLATIONS``.
        mean: the margin's color, one number a channel.
        rounds: how the place of the crop is rounded.
    """
    edges = _edges(size, crop_pct)
    resize: Resize = "shortest" if edges[0] == edges[1] else "cover"
    if crop_mode == "squash":
        resize = "exact"
    elif crop_mode == "border":
        resize = "contain"
    fill = tuple(round(255 * min(1.0, max(0.0, value))) / 255 for value in mean)
    return View(
        size=size,
        resize=resize,
        edges=edges,
        cropped=True,
        rounds=rounds,
        fill=fill if crop_mode == "border" else (),
        interpolation=interpolation,
        crop_pct=crop_pct,
    )


def in_channels(pixels: Tensor, channels: int) -> Tensor:
    """Returns (N, C, H, W) images with one channel made three, or three made one as Pillow's mode L does."""
    if pixels.shape[1] == 1 and channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    if pixels.shape[1] == 3 and channels == 1:
        weights = pixels.new_tensor(GRAY).view(1, 3, 1, 1)
        return (pixels * weights).sum(1, keepdim=True)
    return pixels


def _edges(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    return math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)


def _shortest(height: int, width: int, edge: int) -> tuple[int, int]:
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _capped(height: int, width: int, edge: int, most: int) -> tuple[int, int]:
    """The rule of transformers: a longer side above ``most`` makes the shorter one smaller."""
    short, long = min(height, width), max(height, width)
    side = float(edge)
    if long / short * edge > most:
        side = most * float(short) / long
        edge = round(side)
    if short == edge:
        return height, width
    if width < height:
        return int(side * height / width), edge
    return edge, int(side * width / height)


def _check_size(own: tuple[int, ...], target: tuple[int, int]) -> None:
    if min(target) < 1 or target[0] * target[1] > MOST_PIXELS:
        raise InputError(
            f"pixels: an image of {own[0]}x{own[1]} would be resized to {target[0]}x{target[1]}; use images "
            "that are not so narrow, or set crop_mode to squash"
        )
