"""Projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083, eq. 2), for clean-label poisoning.

Clean-label attacks (Turner et al., 2019, arXiv 1912.02771, section 4.2) make images of the target class hard
to recognize. So a network that learns from them relies on the trigger instead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core import seeding

STEP_SHARE = 2.5
"""Step size times steps over radius, as in Madry et al.; the steps can cross the ball and follow its edge."""


def perturb(model: nn.Module, pixels: Tensor, labels: Tensor, radius: float, steps: int, seed: int) -> Tensor:
    """Returns images within ``radius`` of ``pixels`` on which the model's cross-entropy is high.

    x <- clip(x + step * sign(grad CE(model(x), label))), clipped to the L-infinity ball and to [0,1], from a
    uniform start in the ball.

    Args:
        model: in eval mode; from pixels (N, C, H, W) in [0,1] to logits (N, classes).
        pixels: (N, C, H, W) in [0,1].
        labels: (N,), the true labels.
        radius: largest change of a value, in [0,1].
        steps: number of ascent steps.
        seed: seed of the start.

    Returns:
        (N, C, H, W) in [0,1], detached.
    """
    start = torch.rand(pixels.shape, generator=seeding.generator(seed, "pgd"), dtype=torch.float64)
    low, high = (pixels - radius).clamp_min(0), (pixels + radius).clamp_max(1)
    moved = low + (high - low) * start.to(pixels)
    step = STEP_SHARE * radius / steps

    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        loss = F.cross_entropy(model(moved), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, moved)
        moved = torch.clamp(moved + step * slope.sign(), low, high)

    return moved.detach()
