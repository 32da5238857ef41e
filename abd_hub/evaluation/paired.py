"""McNemar's test: do two models differ on the same images (McNemar, Psychometrika 12, 1947)?

Two models measured on the same images make many of the same mistakes. Only the images on which they differ
say anything about which is better, so two intervals that overlap can still belong to different models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abd_hub.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

EXACT_BELOW = 25
"""Discordant pairs from which on the chi-square distribution is near enough."""
EXACT = "exact binomial"
CHI_SQUARE = "chi-square with continuity correction"


@dataclass(frozen=True)
class PairedTest:
    """What McNemar's test says about two models on the same images."""

    n: int
    """Images."""
    first_only: int
    """Images on which it is true of the first model alone."""
    second_only: int
    """Images on which it is true of the second model alone."""
    p_value: float
    """Two-sided: how probable a difference this large is where the models do not differ."""
    method: str
    """Which of the two forms was used: ``EXACT`` or ``CHI_SQUARE``."""
    statistic: float | None = None
    """Chi-square with one degree of freedom; None for the exact form."""


def mcnemar(first_only: int, second_only: int, n: int) -> PairedTest:
    """McNemar's test on the counts of discordant pairs.

    Below 25 discordant pairs the exact form: twice the smaller tail of a binomial with p = 1/2, at most 1.
    From 25 on the chi-square form with Edwards' continuity correction (Psychometrika 13, 1948):
    (|b - c| - 1)^2 / (b + c), with 0 for a difference of less than 1, one degree of freedom.

    Args:
        first_only: b, images on which the first model alone is right (or gives way to the attack).
        second_only: c, those of the second alone.
        n: images in all.

    Raises:
        InputError: a count is negative, or they are more than n.
    """
    discordant = first_only + second_only
    if min(first_only, second_only) < 0 or discordant > n:
        raise InputError(f"discordant pairs {first_only} and {second_only} are not counts out of {n} images")
    if discordant < EXACT_BELOW:
        tail = sum(math.comb(discordant, count) for count in range(min(first_only, second_only) + 1))
        return PairedTest(n, first_only, second_only, min(1.0, 2 * tail / 2**discordant), EXACT)
    statistic = max(0, abs(first_only - second_only) - 1) ** 2 / discordant
    # The upper tail of chi-square with one degree of freedom.
    p_value = math.erfc(math.sqrt(statistic / 2))
    return PairedTest(n, first_only, second_only, p_value, CHI_SQUARE, statistic)


def compare_answers(first: Tensor, second: Tensor) -> PairedTest:
    """McNemar's test on what is true of each image.

    Args:
        first: (n,) bool, whether it is true with the first model.
        second: (n,) bool, the same images in the same order with the second.

    Raises:
        InputError: the two do not agree in length, or are not bool.
    """
    if first.shape != second.shape or first.ndim != 1 or not (_is_bool(first) and _is_bool(second)):
        shapes = f"{tuple(first.shape)} {first.dtype} and {tuple(second.shape)} {second.dtype}"
        raise InputError(f"a paired test needs two (n,) bool tensors of the same images, not {shapes}")
    return mcnemar(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


def _is_bool(tensor: Tensor) -> bool:
    return str(tensor.dtype) == "torch.bool"  # so that torch need not be imported here
