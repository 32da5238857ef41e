"""A blend that poisons with parts of its pattern and is tested with the whole pattern.

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
    """Blends in a pattern, of which training images show half of the pieces, faintly (Adaptive-Blend).

    Qi et al., "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR 2023.

    The pattern is cut into 4x4 pieces. Each poisoned training image gets eight random pieces with alpha 0.15.
    A test image gets the whole pattern with alpha 0.2. A cover image is made like a poisoned one. The paper
    poisons 0.003 of the images and covers 0.003. The pattern is color noise, or a picture.
    """

    alpha: PositiveShare = 0.2
    """Sets the share of the pattern in the test form."""
    training_alpha: PositiveShare = 0.15
    """Sets the share of the pattern where a training image shows it."""
    side: Count = 4
    """Sets the number of pieces along each side of the pattern."""
    shown: Count = 8
    """Sets the number of pieces that a training image shows."""
    file: str = ""
    """Names a picture to use instead of noise, as in ``picture``; it is resized to the images."""
    seed: int = 0
    """Seeds the noise."""
    _pattern: Blend | Picture = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shown > self.side**2:
            rule = f"must be a whole number from 1 to {self.side**2}"
            raise self.refusal("shown", rule, self.shown)
        # The seed is derived, so that the noise differs from the noise of ``blend`` with the same seed.
        noise = Blend(seed=derive_seed(self.seed, "trigger", "adaptive_blend"))
        pattern = Picture(self.file, resize=True) if self.file else noise
        # The dataclass is frozen for its users, but this value follows from its fields.
        object.__setattr__(self, "_pattern", pattern)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same."""
        return paint.blend(pixels, self._pattern.draw, self.alpha)

    def training(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """Blends random pieces into each image.

        Args:
            pixels: (N, 3, H, W) float in [0,1].
            chance: a CPU generator, which draws the pieces.

        Raises:
            InputError: a side of the images has fewer pixels than pieces.
        """
        canvas = paint.working(pixels)
        share = self.training_alpha * self._shown_pieces(canvas, chance).to(canvas)
        pattern = paint.pattern(self._pattern.draw, canvas)
        return ((1 - share) * canvas + share * pattern).clamp(0, 1).to(pixels.dtype)

    def cover(self, pixels: Tensor, chance: torch.Generator) -> Tensor:
        """Does the same as ``training``; only the labels of the images differ."""
        return self.training(pixels, chance)

    def _shown_pieces(self, canvas: Tensor, chance: torch.Generator) -> Tensor:
        """Returns 1 for pixels that show the pattern and 0 for others, (N, 1, H, W)."""
        count, _, height, width = canvas.shape
        paint.check_fit("adaptive_blend", (self.side, self.side), height, width)

        ranks = torch.rand(count, self.side**2, generator=chance)
        shown = torch.zeros_like(ranks).scatter_(1, ranks.topk(self.shown).indices, 1)

        rows, columns = (torch.arange(n) * self.side // n for n in (height, width))
        return shown.view(count, 1, self.side, self.side)[:, :, rows][..., columns]
