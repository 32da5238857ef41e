"""Photographs by name: files, files on the Hub, and the two that scikit-learn brings along."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.picture_file import decode_picture, read_file
from abd_hub.hub.addresses import FORM, fetch_file, is_address, parse_address

SHIPPED = "sklearn:"
SHIPPED_NAMES = ("china.jpg", "flower.jpg")
"""640x427 pixels each; scikit-learn depends on no network to show them."""
SMALLEST_SIDE = 64


@dataclass(frozen=True, eq=False)
class Photograph:
    """One picture, decoded."""

    name: str
    """As it was asked for; a local path is reduced to its last part."""
    sha256: str
    """Of the bytes of the file."""
    revision: str | None
    """Commit on the Hub; None for other files."""
    pixels: Tensor
    """(3, H, W) uint8."""


def check_names(field: str, names: Sequence[str]) -> None:
    """Refuses names that cannot be those of pictures; looks at no file.

    Raises:
        InputError: naming ``field``.
    """
    if not names:
        raise InputError(f"{field}: names no picture; name at least one, or leave it out")
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"{field}: {name!r} is named twice; name each picture once")
        if is_address(name):
            parse_address(name, f"{field}: {name}")
        elif name.startswith(SHIPPED) and name.removeprefix(SHIPPED) not in SHIPPED_NAMES:
            known = " or ".join(SHIPPED + shipped for shipped in SHIPPED_NAMES)
            raise InputError(f"{field}: {name!r} is no photograph of scikit-learn's; use {known}")
        elif not name.strip():
            raise InputError(f"{field}: {name!r} is empty; name a picture file")


def load(field: str, name: str) -> Photograph:
    """Fetches, checks and decodes one picture; of a moving one the first frame.

    Args:
        field: what messages begin with.
        name: a file, ``hf://[datasets/]org/name[@revision]/path``, or ``sklearn:china.jpg``.

    Raises:
        InputError: it does not exist, cannot be fetched, is no picture of a known format, is damaged, or is
            smaller than 64x64 or larger than 67 million pixels.
    """
    path, revision = _locate(field, name)
    encoded = read_file(path, f"{field}: {name}")
    picture = decode_picture(encoded, f"{field}: {name}")
    _check_size(field, name, picture.size)

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    shown = name if is_address(name) or name.startswith(SHIPPED) else path.name
    return Photograph(shown, hashlib.sha256(encoded).hexdigest(), revision, pixels)


def _locate(field: str, name: str) -> tuple[Path, str | None]:
    """The file on this machine, and its commit where it is from the Hub."""
    if is_address(name):
        return fetch_file(name, f"{field}: {name}")
    if name.startswith(SHIPPED):
        shipped = importlib.resources.files("sklearn.datasets.images") / name.removeprefix(SHIPPED)
        return Path(str(shipped)), None
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"{field}: there is no file {name}; give a picture file, or {FORM}")
    return path, None


def _check_size(field: str, name: str, size: tuple[int, int]) -> None:
    width, height = size
    if min(width, height) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise InputError(f"{field}: {name} is {width}x{height}; patches need a picture of at least {least}")
