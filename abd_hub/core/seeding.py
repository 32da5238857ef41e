"""This module makes the generators for all random draws of the package.

A draw depends only on the run's seed and on its purpose, for example ``("zskt", "z", round)``. So a resumed
run needs no stored generator state, and all processes can draw the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LEGACY_RANK = 0
"""The last part of some purposes. It once was the number of the process, and now is 0 on all of them. It
stays, because stored results come from process 0."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns a 63-bit seed for one purpose of a run."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Returns a CPU generator for one purpose, so that all devices can get the same numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seeds the global CPU generator for one purpose inside the block, and restores its state afterwards.

    It serves libraries that draw from the global generator, for example timm for initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, for good.
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
