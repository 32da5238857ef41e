"""The kinds of input, by their names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of input."""

    name: str
    share: int
    """Its part of a campaign, in thousandths."""
    write: Callable[[Path, Path, random.Random], None]
    """Makes an input: (examples, empty folder, chance)."""
    read: Callable[[Path, Path], Any]
    """Reads it with abd-hub: (examples, folder)."""


KINDS: dict[str, Kind] = {}


def kind(share: int, read: Callable[[Path, Path], Any], name: str = "") -> Callable[[Callable], Callable]:
    """Registers the function below as the writer of a kind."""

    def register(write: Callable) -> Callable:
        own = name or write.__name__
        KINDS[own] = Kind(own.replace("_", " "), share, write, read)
        return write

    return register
