"""Pickles are recognized by their names, because careless reading runs their author's code."""

from __future__ import annotations

from pathlib import PurePath

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")


def is_pickle(file: str | PurePath) -> bool:
    """Returns whether the file's name ends like a pickle's, in capitals or not; opens no file."""
    return PurePath(file).suffix.lower() in PICKLE_SUFFIXES
