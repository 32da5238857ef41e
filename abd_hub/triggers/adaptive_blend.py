"""A blend that is trained with parts of its pattern and tested with the whole.

Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from abd_hub.core.registry import register
from abd_hub.core.seeding import derive_seed
from abd_hub.core.settings import Count, PositiveShare
from abd_hub.triggers import paint
from abd_hub.triggers.blend import Blend
from abd_hub.triggers.picture import Picture


@register("triggers", "adaptive_blend")
@dataclass(frozen=True)
class AdaptiveBlend(paint.Options, place="adaptive_blend"):
    """Blend of which training images show half of the pieces, faintly (Adaptive-Blend).

    Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR 2023: the
    pattern is cut into 4x4 pieces; each poisoned training image gets eight of them, chosen for it at random,
    with alpha 0.15; a test image gets the whole pattern with alpha 0.2. A cover image looks like a poisoned
    one. The paper poisons 0.003 of the images and covers 0.003. The pattern is color noise, or a picture.
    """

    alpha: PositiveShare = 0.2
    """Share of the pattern in the test form."""
    training_alpha: PositiveShare = 0.15
    """Share of the pattern where a training image shows it."""
    side: Count = 4
    """Pieces along each side of the pattern."""
    shown: Count = 8
    """Pieces that a training image shows."""
    file: str = ""
    """A picture instead of noise, as in ``picture``; it is resized to the images."""
    seed: int = 0
    """Which noise."""
    _pattern: Blend | Picture = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shown > self.side**2:
            rule = f"must be a whole number from 1 to {self.side**2}"
            raise self.refusal("shown", rule, self.shown)
        # Other noise than that of ``blend`` with this seed, or neither could be told from the other.
        noise = Blend(seed=derive_seed(self.seed, "trigger", "adaptive_blend"))
        pattern = Picture(self.file, resize=True) if self.file else noise
        # The dataclass is frozen for its users; this is a result of its fields.
        object.__setattr__(self, "_pattern", pattern)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float (N, 3, H, W) in [0,1] to the same."""
        return paint.blend(pixels, self._pattern.draw, self.alpha)

    def training(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """The pieces that each image was dealt; InputError where a side has fewer pixels than pieces."""
        canvas = paint.working(pixels)
        share = self.training_alpha * self._dealt(canvas, chance).to(canvas)
        pattern = paint.pattern(self._pattern.draw, canvas)
        return ((1 - share) * canvas + share * pattern).clamp(0, 1).to(pixels.dtype)

    def cover(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """The same as ``training``: what tells the two apart is the label."""
        return self.training(pixels, chance)

    def _dealt(self, canvas: Tensor, chance: torch.Generator) -> Tensor:
        """Which pixels show the pattern, (N, 1, H, W) of 0 and 1."""
        count, _, height, width = canvas.shape
        paint.check_fit("adaptive_blend", (self.side, self.side), height, width)
        draws = torch.rand(count, self.side**2, generator=chance)
        dealt = torch.zeros_like(draws).scatter_(1, draws.topk(self.shown).indices, 1)
        rows, columns = (torch.arange(n) * self.side // n for n in (height, width))
        return dealt.view(count, 1, self.side, self.side)[:, :, rows][..., columns]
