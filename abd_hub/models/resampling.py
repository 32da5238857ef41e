"""Images are resized here as Pillow resizes them, on floating pixels and differentiably.

Pillow works on one axis after the other, the width first, and cuts what leaves the range after each. Its
filter is as wide as the step between pixels where an image shrinks. torch has two of the filters with the
same numbers, and the others are matrices. The results differ from Pillow's by its rounding to whole levels
only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Names the filters of Pillow."""
_OVERSHOOTS = ("bicubic", "lanczos")
"""Have negative weights, so that a result may leave the range of the pixels."""


def resample(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Returns (N, C, H, W) images in [0, 1] at another height and width.

    Args:
        pixels: floating.
        size: the new height and width.
        interpolation: one of ``INTERPOLATIONS``.
    """
    height, width = pixels.shape[-2:]
    if interpolation == "nearest":
        return pixels if size == (height, width) else F.interpolate(pixels, size, mode="nearest-exact")

    for axis, (old, new) in ((-1, (width, size[1])), (-2, (height, size[0]))):
        if old == new:
            continue
        pixels = _along(pixels, axis, new, interpolation)
        if interpolation in _OVERSHOOTS:
            pixels = pixels.clamp(0, 1)
    return pixels


def _along(pixels: Tensor, axis: int, new: int, interpolation: str) -> Tensor:
    height, width = pixels.shape[-2:]
    if interpolation in ("bilinear", "bicubic"):
        size = (height, new) if axis == -1 else (new, width)
        return F.interpolate(pixels, size, mode=interpolation, antialias=True)

    matrix = resampling_matrix(pixels.shape[axis], new, interpolation).to(pixels)
    return pixels @ matrix.T if axis == -1 else matrix @ pixels


@lru_cache(maxsize=64)
def resampling_matrix(old: int, new: int, interpolation: str) -> Tensor:
    """Returns the weights of ``old`` pixels for each of ``new`` ones, (new, old) float64, whose rows sum to
    1.

    The center of new pixel i lies at c = (i + 1/2) old/new. With s = max(1, old/new), old pixel j has the
    weight f((j + 1/2 - c) / s). A filter f has the half width r, and only pixels within r s of c count.
    """
    reach, kernel = _FILTERS[interpolation]
    step = old / new
    wide = max(step, 1.0)
    with torch.inference_mode(False):  # a later caller may need gradients
        matrix = torch.zeros(new, old, dtype=torch.float64)

        for place in range(new):
            center = (place + 0.5) * step
            first = max(int(center - reach * wide + 0.5), 0)
            last = min(int(center + reach * wide + 0.5), old)
            weights = [kernel((index - center + 0.5) / wide) for index in range(first, last)]
            matrix[place, first:last] = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return matrix


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(math.pi * x) / (math.pi * x)


def _bilinear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _bicubic(x: float) -> float:
    """Keys' cubic with a = -1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _hamming(x: float) -> float:
    return _sinc(x) * (0.54 + 0.46 * math.cos(math.pi * x)) if abs(x) < 1 else 0.0


_FILTERS: dict[str, tuple[float, Callable[[float], float]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
    "box": (0.5, _box),
    "hamming": (1.0, _hamming),
}
"""Maps a filter to its half width and its function."""
