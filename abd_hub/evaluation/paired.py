"""McNemar's test: do two models differ on the same images (McNemar, Psychometrika 12, 1947)?

Two models that are measured on the same images share many mistakes. Only the images on which they differ show
which model is better. So two intervals that overlap can still belong to different models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abd_hub.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

EXACT_BELOW = 25
"""Number of discordant pairs from which on the chi-square distribution is accurate enough."""
EXACT = "exact binomial"
CHI_SQUARE = "chi-square with continuity correction"


@dataclass(frozen=True)
class PairedTest:
    """Holds the result of McNemar's test of two models on the same images."""

    n: int
    """Counts the images."""
    first_only: int
    """Counts the images on which only the first model is right (or gives way to the attack)."""
    second_only: int
    """Counts the images on which only the second model is right (or gives way to the attack)."""
    p_value: float
    """Holds the two-sided probability of a difference this large between models that do not differ."""
    method: str
    """Names the form of the test, ``EXACT`` or ``CHI_SQUARE``."""
    statistic: float | None = None
    """Holds chi-square with one degree of freedom; None for the exact form."""


def mcnemar(first_only: int, second_only: int, n: int) -> PairedTest:
    """Makes McNemar's test on the counts of discordant pairs.

    Below 25 discordant pairs, the test is exact: twice the smaller tail of a binomial with p = 1/2, at most
    1. From 25 on, it uses chi-square with one degree of freedom and Edwards' continuity correction
    (Psychometrika 13, 1948). The statistic is then (|b - c| - 1)^2 / (b + c), or 0 for b = c.

    Args:
        first_only: b, images on which only the first model is right (or gives way to the attack).
        second_only: c, images on which only the second model is right (or gives way to the attack).
        n: number of all images.

    Raises:
        InputError: a count is negative, or both together exceed n.
    """
    discordant = first_only + second_only
    if min(first_only, second_only) < 0 or discordant > n:
        raise InputError(
            f"discordant pairs {first_only} and {second_only} are not counts out of {n} images; use counts "
            "of 0 or more that are together at most n"
        )

    if discordant < EXACT_BELOW:
        tail = sum(math.comb(discordant, count) for count in range(min(first_only, second_only) + 1))
        return PairedTest(n, first_only, second_only, min(1.0, 2 * tail / 2**discordant), EXACT)

    statistic = max(0, abs(first_only - second_only) - 1) ** 2 / discordant
    # This is the upper tail of chi-square with one degree of freedom.
    p_value = math.erfc(math.sqrt(statistic / 2))
    return PairedTest(n, first_only, second_only, p_value, CHI_SQUARE, statistic)


def compare_answers(first: Tensor, second: Tensor) -> PairedTest:
    """Makes McNemar's test on one bool for each image and model.

    Args:
        first: (n,) bool, whether the first model is right (or gives way to the attack).
        second: (n,) bool, the same for the second model, on the same images in the same order.

    Raises:
        InputError: the two differ in length, or are not bool.
    """
    if first.shape != second.shape or first.ndim != 1 or not (_is_bool(first) and _is_bool(second)):
        shapes = f"{tuple(first.shape)} {first.dtype} and {tuple(second.shape)} {second.dtype}"
        raise InputError(f"a paired test needs two (n,) bool tensors of the same images, not {shapes}")
    return mcnemar(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


def _is_bool(tensor: Tensor) -> bool:
    return str(tensor.dtype) == "torch.bool"  # so that torch need not be imported here
