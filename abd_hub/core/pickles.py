"""Which files are pickles: reading one without care runs what its author wants."""

from __future__ import annotations

from pathlib import PurePath

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")


def is_pickle(file: str | PurePath) -> bool:
    """Whether the file's name ends as pickles do, in capitals or not; the file is not opened."""
    return PurePath(file).suffix.lower() in PICKLE_SUFFIXES
