"""The shared parts of triggers, which draw a fixed pattern once an image size and apply it to pixels.

A pattern is a CPU float64 tensor (1 or 3, H, W) in the 0..255 scale of the published rules. It is drawn once,
divided by 255 and kept for each device and dtype. Half-precision pixels are converted to float32 and rounded
once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.settings import Range, Settings

Level = Annotated[float, Range(above=0, most=255)]
"""Type of a value in the scale of 8 bits."""
Draw = Callable[[int, int], Tensor]
"""Type of a function from (height, width) to a pattern (1 or 3, height, width), float64 in 0..255."""
Corner = Literal["bottom_right", "bottom_left", "top_right", "top_left"]
"""Names the corner of a patch. In another corner than the published one, the patch is mirrored."""
CORNERS: tuple[Corner, ...] = get_args(Corner)
UNTOUCHED = -255.0
"""Value in a pattern for ``replace`` where the pixels do not change."""


class Options(Settings):
    """Is the base of the dataclasses of triggers; ``place`` is the trigger's name."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns the options with which a search for an unknown trigger tries this one, the likeliest first.

        An empty tuple leaves the trigger out of the search.
        """
        return ({},)

    def refusal(self, field: str, rule: str, value: Any) -> InputError:
        """Returns the error for a field whose value breaks the rule, in the form of ``build_trigger``."""
        return InputError(f"trigger {self.place}: {field} {value!r} {rule}")


def add(pixels: Tensor, draw: Draw) -> Tensor:
    """Returns pixels plus the pattern, clipped to [0,1]."""
    canvas = working(pixels)
    return (canvas + pattern(draw, canvas)).clamp(0, 1).to(pixels.dtype)


def blend(pixels: Tensor, draw: Draw, alpha: float) -> Tensor:
    """Returns ``(1 - alpha) * pixels + alpha * pattern``, clipped to [0,1]."""
    canvas = working(pixels)
    return ((1 - alpha) * canvas + alpha * pattern(draw, canvas)).clamp(0, 1).to(pixels.dtype)


def replace(pixels: Tensor, draw: Draw) -> Tensor:
    """Returns the pattern where it is not UNTOUCHED, the pixels elsewhere."""
    stamp = pattern(draw, pixels)
    return torch.where(stamp < 0, pixels, stamp)


def in_corner(field: Tensor, corner: Corner) -> Tensor:
    """Mirrors a pattern (C, H, W) for the bottom right corner into another corner."""
    rows = [1] if corner.startswith("top") else []
    columns = [2] if corner.endswith("left") else []
    return field.flip(rows + columns)


def working(pixels: Tensor) -> Tensor:
    """Returns the pixels in float32 or better.

    Raises:
        InputError: the pixels are not a float tensor (N, C, H, W).
    """
    _check_pixels(pixels)
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32))


def pattern(draw: Draw, pixels: Tensor) -> Tensor:
    """Returns the pattern in [0,1] for images like ``pixels``, on their device and in their dtype.

    Raises:
        InputError: the pattern is larger than the images, or colored while the images are not.
    """
    _check_pixels(pixels)
    channels, height, width = pixels.shape[1:]
    stamp = _cached(draw, height, width, pixels.device, pixels.dtype)
    if len(stamp) not in (1, channels):
        raise InputError(
            f"the trigger is colored and needs images of {len(stamp)} channels, these have {channels}; use "
            "another trigger"
        )
    return stamp


# The bound method is the key, and so is the trigger object in it.
@lru_cache(maxsize=64)
def _cached(draw: Draw, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # A tensor made in inference mode could never be used in training, so this leaves the mode.
    with torch.inference_mode(False):
        return draw(height, width).div(255).to(device=device, dtype=dtype)


def _check_pixels(pixels: Tensor) -> None:
    if pixels.ndim != 4 or not pixels.is_floating_point():
        shape = "x".join(str(length) for length in pixels.shape)
        raise InputError(f"a trigger takes float pixels (N, C, H, W) in [0,1], not {pixels.dtype} {shape}")


def check_fit(name: str, needed: tuple[int, int], height: int, width: int) -> None:
    """Refuses images that are smaller than ``needed``.

    Args:
        name: name of the trigger, for the message.
        needed: smallest (rows, columns).
        height: height of the images in pixels.
        width: width of the images in pixels.

    Raises:
        InputError: the images are too small.
    """
    if needed[0] > height or needed[1] > width:
        raise InputError(
            f"trigger {name} needs images of at least {needed[0]}x{needed[1]} but these are "
            f"{height}x{width}; use other options of the trigger, or larger images"
        )
