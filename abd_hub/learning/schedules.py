"""Learning-rate schedules as functions of the round: nothing to store, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(start: float, index: float, rounds: int) -> float:
    """Cosine annealing (Loshchilov & Hutter, ICLR 2017): ``start`` at round 0, towards 0 at ``rounds``."""
    return start * 0.5 * (1.0 + math.cos(math.pi * index / rounds))


def stepped(start: float, index: float, rounds: int, drops: Sequence[float]) -> float:
    """``start``, divided by ten for each share in ``drops`` of the rounds that has passed."""
    passed = sum(index >= drop * rounds for drop in drops)
    return float(start * 0.1**passed)


def warmup_cosine(peak: float, done: float, total: float, warmup: float) -> float:
    """Linear from 0 to ``peak`` over the first share ``warmup`` of ``total``, then cosine towards 0.

    With ``warmup`` 0 this is ``cosine``.
    """
    rise = warmup * total
    if done < rise:
        return peak * done / rise
    return peak * 0.5 * (1.0 + math.cos(math.pi * (done - rise) / (total - rise)))
