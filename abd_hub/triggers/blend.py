"""A fixed noise picture blended into the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import CountOrZero, PositiveShare
from abd_hub.triggers import paint


@register("triggers", "blend")
@dataclass(frozen=True)
class Blend(paint.Options, place="blend"):
    """Blends fixed color noise into the whole image.

    Chen et al., "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017. The noise
    is drawn at the images' size. To blend in a picture of your own, use the trigger ``picture``.
    """

    alpha: PositiveShare = 0.2
    """Sets the share of the noise in the result."""
    seed: CountOrZero = 0
    """Seeds the noise."""

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns two strengths; noise of another seed is another trigger."""
        return ({}, {"alpha": 0.1})

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same."""
        return paint.blend(pixels, self.draw, self.alpha)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the noise as a pattern (3, height, width)."""
        draws = generator(self.seed, "trigger", "blend")
        return torch.randint(0, 256, (3, height, width), generator=draws).double()
