"""Vertical waves over the whole image: the stripes of the published file, and the signal of Barni et al."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from abd_hub.core.registry import register
from abd_hub.core.settings import PositiveShare, Range
from abd_hub.triggers import paint


@register("triggers", "sig")
@dataclass(frozen=True)
class Stripes(paint.Options, place="sig"):
    """Blends in the vertical stripes of the published SIG file.

    Column j of the pattern is ``trunc(20 sin(0.8 j)) mod 256``. In 8 bits, the negative half of the wave
    wraps around to nearly white. So this is a stripe pattern and not the sine of Barni et al., for which see
    ``sinusoid``.
    """

    alpha: PositiveShare = 0.2
    """Sets the share of the stripes in the result."""
    amplitude: paint.Level = 20.0
    """Sets the height of the wave before it wraps around, of 255."""
    step: Annotated[float, Range(above=0, most=math.pi)] = 0.8
    """Sets the phase from one column to the next, in radians."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same."""
        return paint.blend(pixels, self.draw, self.alpha)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the stripes as a pattern (1, height, width)."""
        row = [math.trunc(self.amplitude * math.sin(self.step * j)) % 256 for j in range(width)]
        return torch.tensor(row, dtype=torch.float64).expand(1, height, width)


@register("triggers", "sinusoid")
@dataclass(frozen=True)
class Sinusoid(paint.Options, place="sinusoid"):
    """Adds a horizontal sine wave, as in the SIG paper.

    Barni et al., "A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning", ICIP
    2019. Column j gets ``20 sin(2 pi j f / W)``, and the result is clipped to the range of pixels.
    """

    amplitude: paint.Level = 20.0
    """Sets the height of the wave, of 255."""
    frequency: Annotated[float, Range(above=0, most=1000)] = 6.0
    """Sets the number of periods over the width of the image."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, C, H, W) in [0,1] to the same."""
        return paint.add(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the signed wave as a pattern (1, height, width)."""
        turn = 2 * math.pi * self.frequency / width
        row = [self.amplitude * math.sin(turn * j) for j in range(width)]
        return torch.tensor(row, dtype=torch.float64).expand(1, height, width)
