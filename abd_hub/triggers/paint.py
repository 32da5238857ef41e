"""What triggers share: drawing a fixed pattern once per image size, and putting it onto pixels.

A pattern is a CPU float64 tensor (1 or 3, H, W) in the 0..255 scale of the published rules. It is drawn
once, divided by 255 and kept per device and dtype. Half-precision pixels are worked on in float32 and
rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.settings import Range, Settings

Level = Annotated[float, Range(above=0, most=255)]
"""In the scale of 8 bits."""
Draw = Callable[[int, int], Tensor]
"""(height, width) to a pattern (1 or 3, height, width), float64 in 0..255."""
UNTOUCHED = -255.0
"""Marks, in a pattern for ``replace``, the pixels that keep their value."""


class Options(Settings):
    """A base for the dataclasses of triggers; ``place`` is the trigger's name."""

    def refusal(self, field: str, rule: str, value: Any) -> InputError:
        """Returns the error in the words of ``build_trigger``."""
        return InputError(f"trigger {self.place}: {field} {value!r} {rule}")


def add(pixels: Tensor, draw: Draw) -> Tensor:
    """Pixels plus the pattern, clipped to [0,1]."""
    canvas = working(pixels)
    return (canvas + pattern(draw, canvas)).clamp(0, 1).to(pixels.dtype)


def blend(pixels: Tensor, draw: Draw, alpha: float) -> Tensor:
    """``(1 - alpha) * pixels + alpha * pattern``, clipped to [0,1]."""
    canvas = working(pixels)
    return ((1 - alpha) * canvas + alpha * pattern(draw, canvas)).clamp(0, 1).to(pixels.dtype)


def replace(pixels: Tensor, draw: Draw) -> Tensor:
    """The pattern where it is not UNTOUCHED, the pixels elsewhere."""
    stamp = pattern(draw, pixels)
    return torch.where(stamp < 0, pixels, stamp)


def working(pixels: Tensor) -> Tensor:
    """The pixels in float32 or better.

    Raises:
        InputError: not a float tensor (N, C, H, W).
    """
    _check_pixels(pixels)
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32))


def pattern(draw: Draw, pixels: Tensor) -> Tensor:
    """The pattern in [0,1] for images like ``pixels``, on their device and in their dtype.

    Raises:
        InputError: the pattern is larger than the images, or colored while the images are not.
    """
    _check_pixels(pixels)
    channels, height, width = pixels.shape[1:]
    drawn = _cached(draw, height, width, pixels.device, pixels.dtype)
    if len(drawn) not in (1, channels):
        raise InputError(
            f"the trigger is colored: it needs images of {len(drawn)} channels, these have {channels}"
        )
    return drawn


# Keyed by the bound method, hence by the trigger object itself.
@lru_cache(maxsize=64)
def _cached(draw: Draw, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # A tensor made in inference mode could never be used in training again, so leave that mode.
    with torch.inference_mode(False):
        return draw(height, width).div(255).to(device=device, dtype=dtype)


def _check_pixels(pixels: Tensor) -> None:
    if pixels.ndim != 4 or not pixels.is_floating_point():
        shape = "x".join(str(length) for length in pixels.shape)
        raise InputError(f"a trigger takes float pixels (N, C, H, W) in [0,1], not {pixels.dtype} {shape}")


def check_fit(name: str, needed: tuple[int, int], height: int, width: int) -> None:
    """Refuse images smaller than ``needed`` (rows, columns).

    Raises:
        InputError: the images are too small.
    """
    if needed[0] > height or needed[1] > width:
        raise InputError(
            f"trigger {name} needs images of at least {needed[0]}x{needed[1]} but these are "
            f"{height}x{width}; use other options of the trigger, or larger images"
        )
