"""Every random draw of the package comes from a generator made here.

A draw depends only on the run's seed and on what it is for (for example ``("zskt", "z", round)``), so
a resumed run needs no stored generator state, and all processes can draw the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LEGACY_RANK = 0
"""The last part of some purposes. Once it was the number of the process; now it is 0 on all of them. It
stays, because stored results come from process 0."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and the purpose of the draw."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; draw on the CPU and move, so that every device sees the same."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """The global CPU generator holds the seed of this purpose inside, and its old state again after.

    For libraries that draw from the global generator, for example the initial weights of a timm model.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the accelerators too, for good
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
