"""MM-BD: how far the logit of each class can rise above all others (Wang et al., S&P 2024, arXiv 2205.06900).

For each class k, projected gradient ascent from uniform noise maximizes the margin

    f_k(x) - max over j != k of f_j(x)    over x in [0, 1]^d,

and the largest margin over the starts is the class's statistic. A backdoor's class has a far larger one, with
any kind of trigger. A gamma distribution is fitted to all statistics but the largest. With K classes,

    p = 1 - G(largest)^K,

and the class is flagged for p <= 0.05. The authors' code also fits the location of the distribution. Here it
is 0, which a handful of numbers determines better; ``fit_gamma`` finds the maximum of the likelihood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.inspections import Inspection, InspectionReport
from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import Count, Positive, PositiveShare, ShareBelowOne
from abd_hub.inspection.confident import CHUNK_PIXELS
from abd_hub.learning.modes import in_eval_mode

FAMILY = "margin"
SETTLED = 1e-5
"""An image is finished when its margin changes by less than this share in a step."""
FEWEST = 3
"""Fewer positive statistics than this, the largest one included, allow no fit."""


@register("inspections", "mm_bd")
@dataclass(frozen=True, kw_only=True)
class MmBd(Inspection, place="mm_bd"):
    """Largest margin of each class over all others, from noise; a far larger one is suspicious."""

    citation = r"""@inproceedings{wang2024mmbd,
  title={{MM-BD}: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern Types Using a
    Maximum Margin Statistic},
  author={Wang, Hang and Xiang, Zhen and Miller, David J. and Kesidis, George},
  booktitle={IEEE Symposium on Security and Privacy},
  pages={1994--2012},
  year={2024}
}"""
    uses_images = False
    unit = "largest margin of logits"

    starts: Count = 30
    """The search begins from so many images of uniform noise a class."""
    steps: Count = 300
    """Each image takes at most so many steps."""
    learning_rate: Positive = 1e-2
    """A step moves an image by this much times the gradient."""
    momentum: ShareBelowOne = 0.2
    """A step keeps this share of the last one."""
    p_value: PositiveShare = 0.05
    """A class is flagged whose p-value is at most this."""

    def inspect(self, teacher: Any, images: Tensor, seed: int = 0) -> InspectionReport:
        """Searches class by class; of ``images`` only the shape and the device matter.

        Raises:
            InputError: the teacher has one class, its logits are not finite, or they do not depend on the
                image.
        """
        began = time.perf_counter()
        labels = teacher.spec.labels
        if len(labels) < 2:
            raise InputError(f"teacher: has {len(labels)} class; an inspection compares classes, give two")
        with in_eval_mode(teacher):
            noise = self._noise(images, seed)
            _check_logits(teacher, noise)
            margins = [self._margin(teacher, noise, label) for label in range(len(labels))]

        first = max(range(len(margins)), key=margins.__getitem__)
        p = maximum_p_value(margins)
        flagged = p <= self.p_value
        return InspectionReport(
            name="mm_bd",
            flagged=flagged,
            suspects=(first,) if flagged else (),
            statistics={FAMILY: tuple(margins)},
            scores={FAMILY: p},
            threshold={FAMILY: self.p_value},
            detail=_detail(labels, margins, p, flagged),
            seconds=time.perf_counter() - began,
            labels=labels,
        )

    def _noise(self, images: Tensor, seed: int) -> Tensor:
        """(starts, C, H, W) in [0, 1], the same for every class."""
        chance = generator(seed, "inspection", "mm_bd", "noise")
        noise = torch.rand(self.starts, *images.shape[1:], generator=chance)
        return noise.to(images if images.is_floating_point() else images.device)

    def _margin(self, teacher: Any, noise: Tensor, label: int) -> float:
        chunk = max(1, CHUNK_PIXELS // (noise.shape[2] * noise.shape[3]))
        return max(self._ascend(teacher, part, label) for part in torch.split(noise, chunk))

    def _ascend(self, teacher: Any, start: Tensor, label: int) -> float:
        """The largest margin that any of the images reaches."""
        pixels, speed = start.clone(), torch.zeros_like(start)
        last: Tensor | None = None
        for _ in range(self.steps):
            pixels.requires_grad_()
            margin = margins_of(teacher(pixels), label)
            if not margin.isfinite().all():
                raise InputError("teacher: gives logits that are not finite; check its weights")
            (gradient,) = torch.autograd.grad(margin.sum(), pixels)
            now = margin.detach()
            if last is not None and bool(((now - last).abs() <= SETTLED * last.abs()).all()):
                break
            last, speed = now, self.momentum * speed + gradient
            pixels = (pixels.detach() + self.learning_rate * speed).clamp(0, 1)
        with torch.no_grad():
            return float(margins_of(teacher(pixels), label).max())


def margins_of(logits: Tensor, label: int) -> Tensor:
    """Returns (n,): the logit of the class minus the largest of the others."""
    others = logits.clone()
    others[:, label] = -math.inf
    return logits[:, label] - others.amax(dim=1)


def maximum_p_value(statistics: Sequence[float]) -> float:
    """Returns how likely a largest statistic of this size is without a backdoor.

    Args:
        statistics: one a class. Those that are not positive are left out of the fit: such a class is never
            chosen, and a gamma distribution has no such values.

    Returns:
        ``1 - G(largest)^K`` with K classes; 1 where fewer than three are positive.
    """
    ranked = sorted((value for value in statistics if value > 0), reverse=True)
    if len(ranked) < FEWEST:
        return 1.0
    largest, null = ranked[0], torch.tensor(ranked[1:], dtype=torch.float64)
    shape, scale = fit_gamma(null)
    upper = torch.special.gammaincc(shape, largest / scale)
    # 1 - (1 - upper)^K without the loss of small numbers.
    return float(-torch.expm1(len(statistics) * torch.log1p(-upper)))


def fit_gamma(values: Tensor) -> tuple[Tensor, Tensor]:
    """Fits a gamma distribution by maximum likelihood, with its location at 0.

    The shape k solves ``log k - digamma(k) = log(mean) - mean of logs``; Newton's method finds 1/k (Minka,
    2002). The scale is the mean divided by k.

    Args:
        values: (n,) float64, positive. Equal ones get a narrow distribution rather than an infinite shape.

    Returns:
        Shape and scale, float64.
    """
    mean = values.mean()
    spread = (mean.log() - values.log().mean()).clamp(min=1e-12)
    shape = 0.5 / spread
    for _ in range(100):
        curve = 1 / shape - torch.special.polygamma(1, shape)
        step = (shape.log() - torch.digamma(shape) - spread) / (shape * shape * curve)
        new = 1 / (1 / shape + step)
        if bool((new - shape).abs() <= 1e-12 * shape):
            break
        shape = new
    return shape, mean / shape


@torch.no_grad()
def _check_logits(teacher: Any, noise: Tensor) -> None:
    logits = teacher(noise[:2])
    if not logits.isfinite().all():
        raise InputError("teacher: gives logits that are not finite; check its weights and normalization")
    if len(logits) > 1 and torch.equal(logits[0], logits[1]):
        raise InputError("teacher: gives the same logits to every image; check its weights and normalization")


def _detail(labels: Sequence[str], margins: Sequence[float], p: float, flagged: bool) -> str:
    if not flagged:
        return f"no class stands out (p = {p:.2g}); this does not show that the model is clean"
    second, first = sorted(range(len(margins)), key=margins.__getitem__)[-2:]
    return (
        f"class {first} ({labels[first]}) rises {margins[first]:.3g} above all others, the next class "
        f"{margins[second]:.3g} (p = {p:.2g}): suspicious"
    )
