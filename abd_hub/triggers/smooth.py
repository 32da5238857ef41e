"""A trigger without high frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import CountOrZero
from abd_hub.triggers import paint

COARSE = 4


@register("triggers", "smooth")
@dataclass(frozen=True)
class Smooth(paint.Options, place="smooth"):
    """Adds a low-frequency color field and stretches each image to the full range.

    After Zeng et al., "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", ICCV 2021, with
    a field of our own. It is made of 4x4 random colors, which are enlarged to the images' size. As in the
    published rule, the result is min-max scaled over all channels of an image, and not clipped.
    """

    strength: paint.Level = 51.0
    """Sets the largest value of the field, of 255."""
    seed: CountOrZero = 0
    """Seeds the field."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same; every image then reaches both 0 and 1."""
        canvas = paint.working(pixels)
        total = canvas + paint.pattern(self.draw, canvas)
        low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
        # An image that cancels the field exactly would be flat. It becomes 0 instead of a division by 0.
        span = (high - low).clamp_min(torch.finfo(total.dtype).tiny)
        return ((total - low) / span).to(pixels.dtype)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the field as a pattern (3, height, width)."""
        draws = generator(self.seed, "trigger", "smooth")
        coarse = torch.rand(1, 3, COARSE, COARSE, dtype=torch.float64, generator=draws)
        field = interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
        field = (field - field.min()) / (field.max() - field.min())
        return (self.strength * field).round()
