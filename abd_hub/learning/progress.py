"""Shows how far a loop of steps is, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm.auto import tqdm

from abd_hub.learning import distributed


def shown(total: int, name: str) -> Iterable[int]:
    """Counts from 0 to ``total``; the first process shows a bar, where standard error is a terminal."""
    rank, _ = distributed.world()
    hidden = True if rank else None  # None leaves it to tqdm, which looks for a terminal
    bar: Iterable[int] = tqdm(range(total), desc=name, unit="step", leave=False, disable=hidden)
    return bar
