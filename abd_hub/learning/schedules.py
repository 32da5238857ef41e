"""Defines learning-rate schedules as functions of the round, which have no state to store."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(start: float, index: float, rounds: int) -> float:
    """Returns the rate of cosine annealing, ``start`` at round 0 and 0 at ``rounds``.

    The schedule is by Loshchilov & Hutter (ICLR 2017).
    """
    return start * 0.5 * (1.0 + math.cos(math.pi * index / rounds))


def stepped(start: float, index: float, rounds: int, drops: Sequence[float]) -> float:
    """Returns ``start``, divided by ten for each share in ``drops`` of the rounds that has passed."""
    passed = sum(index >= drop * rounds for drop in drops)
    return float(start * 0.1**passed)


def warmup_cosine(peak: float, done: float, total: float, warmup: float) -> float:
    """Returns a rate that rises linearly from 0 to ``peak`` and then falls to 0 by a cosine.

    The rise takes the share ``warmup`` of ``total``. With ``warmup`` 0 this is ``cosine``.
    """
    rise = warmup * total
    if done < rise:
        return peak * done / rise
    return peak * 0.5 * (1.0 + math.cos(math.pi * (done - rise) / (total - rise)))
