"""Invisible triggers, bounded in the number of pixels (l0) or in the norm (l2).

Li et al., "Invisible Backdoor Attacks on Deep Neural Networks via Steganography and Regularization", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import CountOrZero, Range
from abd_hub.triggers import paint

ROW = torch.tensor(
    [
        (0, 0, 0),
        (255, 0, 255),
        (0, 0, 255),
        (255, 255, 0),
        (255, 255, 255),
        (0, 255, 255),
        (0, 255, 255),
        (255, 0, 0),
        (255, 255, 255),
    ],
    dtype=torch.float64,
).T
# A rectified Gaussian of this width has the norm of the published noise, 3.22 at 32x32, and as many zeros.
SPREAD = 21.15
LARGEST = 68


@register("triggers", "l0_inv")
@dataclass(frozen=True)
class L0Inv(paint.Options, place="l0_inv"):
    """Puts nine colored pixels at the end of the last row (l0-invisible).

    Li et al., "Invisible Backdoor Attacks on Deep Neural Networks via Steganography and Regularization",
    2020. At 32x32, the pixels are in row 31, columns 23..31.
    """

    length: Annotated[int, Range(least=1, most=ROW.shape[1])] = 9
    """Sets how many of the nine pixels are used, counted from the right."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same; raises InputError where the row is too short."""
        return paint.replace(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the pixels as a pattern (3, height, width)."""
        paint.check_fit("l0_inv", (1, self.length), height, width)
        field = torch.full((3, height, width), paint.UNTOUCHED, dtype=torch.float64)
        field[:, -1, width - self.length :] = ROW[:, ROW.shape[1] - self.length :]
        return field


@register("triggers", "l2_inv")
@dataclass(frozen=True)
class L2Inv(paint.Options, place="l2_inv"):
    """Adds faint noise that is bounded in norm (l2-invisible).

    After Li et al., "Invisible Backdoor Attacks on Deep Neural Networks via Steganography and
    Regularization", 2020, with noise of our own. The noise is drawn at the images' size. Its values are from
    0 to 68 of 255, and its norm at 32x32 is 3.22 in the [0,1] scale.
    """

    seed: CountOrZero = 0
    """Seeds the noise."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same."""
        return paint.add(pixels, self.draw)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the noise as a pattern (3, height, width)."""
        draws = generator(self.seed, "trigger", "l2_inv")
        noise = torch.randn(3, height, width, dtype=torch.float64, generator=draws)
        return (SPREAD * noise).round().clamp(0, LARGEST)
