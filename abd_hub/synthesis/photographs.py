"""Loads photographs by name: files, files on the Hub, and two that scikit-learn contains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.picture_file import decode_picture, read_file
from abd_hub.core.shipped import shipped_by_sklearn
from abd_hub.hub.addresses import FORM, fetch_file, is_address, parse_address

SHIPPED = "sklearn:"
SHIPPED_NAMES = ("china.jpg", "flower.jpg")
"""Lists photographs of 640x427 pixels, which scikit-learn installs, so that no network is needed."""
SMALLEST_SIDE = 64


@dataclass(frozen=True, eq=False)
class Photograph:
    """Holds one decoded picture."""

    name: str
    """Is the name as given; a local path is reduced to its last part."""
    sha256: str
    """Is the hash of the file's bytes."""
    revision: str | None
    """Is the commit on the Hub; None for other files."""
    pixels: Tensor
    """Has shape (3, H, W), uint8."""


def check_names(field: str, names: Sequence[str]) -> None:
    """Refuses names that no picture can have; opens no file.

    Args:
        field: the name that the error begins with.
        names: as a user gives them.

    Raises:
        InputError: there is no name, or one is empty, given twice, or malformed.
    """
    if not names:
        raise InputError(f"{field}: names no picture; name at least one, or leave the field out")
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"{field}: {name!r} is named twice; name each picture once")
        if is_address(name):
            parse_address(name, f"{field}: {name}")
        elif name.startswith(SHIPPED) and name.removeprefix(SHIPPED) not in SHIPPED_NAMES:
            known = " or ".join(SHIPPED + shipped for shipped in SHIPPED_NAMES)
            raise InputError(f"{field}: scikit-learn has no photograph {name!r}; use {known}")
        elif not name.strip():
            raise InputError(f"{field}: {name!r} is empty; name a picture file")


def load(field: str, name: str) -> Photograph:
    """Fetches, checks and decodes one picture, or the first frame of an animation.

    Args:
        field: the name that errors begin with.
        name: a file, ``hf://[datasets/]org/name[@revision]/path``, or ``sklearn:china.jpg``.

    Raises:
        InputError: the file is missing, cannot be fetched, has no known format or is damaged. The same error
            refuses a picture smaller than 64x64 or larger than 67 million pixels.
    """
    path, revision = _locate(field, name)
    encoded = read_file(path, f"{field}: {name}")
    picture = decode_picture(encoded, f"{field}: {name}")
    _check_size(field, name, picture.size)

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    shown = name if is_address(name) or name.startswith(SHIPPED) else path.name
    return Photograph(shown, hashlib.sha256(encoded).hexdigest(), revision, pixels)


def _locate(field: str, name: str) -> tuple[Path, str | None]:
    """Returns the file on this machine, and its commit where it is from the Hub."""
    if is_address(name):
        return fetch_file(name, f"{field}: {name}")
    if name.startswith(SHIPPED):
        return shipped_by_sklearn("datasets", "images", name.removeprefix(SHIPPED)), None
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"{field}: there is no file {name}; give a picture file, or {FORM}")
    return path, None


def _check_size(field: str, name: str, size: tuple[int, int]) -> None:
    """Refuses a picture whose shorter side is too short for patches."""
    width, height = size
    if min(width, height) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise InputError(f"{field}: {name} has {width}x{height} pixels; use a picture of at least {least}")
