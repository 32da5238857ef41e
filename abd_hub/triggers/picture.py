"""Any picture as a trigger: from a file or from the Hub, with or without a mask."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.picture_file import MOST_PIXELS, decode_picture, read_file
from abd_hub.core.registry import register
from abd_hub.core.settings import PositiveShare
from abd_hub.hub.addresses import fetch_file, is_address
from abd_hub.triggers import paint


@register("triggers", "picture")
@dataclass(frozen=True)
class Picture(paint.Options, place="picture"):
    """Replaces the image by any picture file, or adds or blends it in, with an optional mask.

    With picture t, mask m and pixels x, the result is ``(1 - m) * x + m * y``, clipped to [0,1]. Here y is t
    (replace), ``x + t`` (add) or ``(1 - alpha) * x + alpha * t`` (blend). Files are read once, when the
    trigger is built.
    """

    file: str
    """Names a picture file, or ``hf://[datasets/]org/name[@revision]/path`` for one on the Hub."""
    mode: Literal["replace", "add", "blend"] = "blend"
    """Selects how picture and image are combined: replace, add or blend."""
    alpha: PositiveShare = 0.2
    """Sets the share of the picture in the result; only for blend."""
    mask: str = ""
    """Names the mask: a picture (255 fully, 0 not at all), or a .npy in [0,1] of (H, W) or (C, H, W)."""
    resize: bool = False
    """Resizes picture and mask to the images; else they must have the images' size."""
    sha256: str = field(init=False)
    """Holds the sha256 of the bytes of picture and mask, which differs for other content of the same name."""
    _picture: Tensor = field(init=False, repr=False, compare=False)
    _mask: Tensor = field(init=False, repr=False, compare=False)

    @classmethod
    def variants(cls) -> tuple[dict[str, Any], ...]:
        """Returns none, because nobody has named a picture."""
        return ()

    def __post_init__(self) -> None:
        super().__post_init__()
        encoded = _fetch("file", self.file)
        shape = _fetch("mask", self.mask) if self.mask else b""
        digest = hashlib.sha256(len(encoded).to_bytes(8, "big") + encoded + shape).hexdigest()
        picture = _picture(encoded, "file", self.file, "RGB")
        ones = torch.full((1, *picture.shape[1:]), 255, dtype=torch.uint8)

        # The dataclass is frozen for its users, but these three values follow from its fields.
        object.__setattr__(self, "sha256", digest)
        object.__setattr__(self, "_picture", picture)
        object.__setattr__(self, "_mask", _read_mask(shape, self.mask) if self.mask else ones)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps float (N, 3, H, W) in [0,1] to the same; InputError for other sizes without ``resize``."""
        canvas = paint.working(pixels)
        picture, mask = paint.pattern(self.draw, canvas), paint.pattern(self.draw_mask, canvas)
        match self.mode:
            case "replace":
                painted = picture
            case "add":
                painted = canvas + picture
            case _:
                painted = (1 - self.alpha) * canvas + self.alpha * picture
        return ((1 - mask) * canvas + mask * painted).clamp(0, 1).to(pixels.dtype)

    def draw(self, height: int, width: int) -> Tensor:
        """Returns the picture as a pattern (3, height, width)."""
        return self._fit("picture", self._picture, height, width)

    def draw_mask(self, height: int, width: int) -> Tensor:
        """Returns the mask, 255 where the picture applies fully, as a pattern (1 or 3, height, width)."""
        return self._fit("mask", self._mask, height, width)

    def _fit(self, what: str, drawn: Tensor, height: int, width: int) -> Tensor:
        rows, columns = drawn.shape[1:]
        if (rows, columns) == (height, width):
            return drawn.double()
        if not self.resize:
            raise InputError(
                f"trigger picture: the {what} is {rows}x{columns} but the images are {height}x{width}; "
                "set resize to true or use a file of the images' size"
            )
        return interpolate(drawn[None].double(), (height, width), mode="bilinear", antialias=True)[0]


def _fetch(option: str, place: str) -> bytes:
    """Reads the bytes of a local file or of a file on the Hub."""
    what = f"trigger picture: {option} {place!r}"
    path = fetch_file(place, what)[0] if is_address(place) else Path(place).expanduser()
    return read_file(path, what)


def _picture(encoded: bytes, option: str, place: str, mode: str) -> Tensor:
    """Decodes a picture to (channels, H, W), uint8, an eighth of what float64 would take."""
    picture = decode_picture(encoded, f"trigger picture: {option} {place!r}", mode=mode)
    values = torch.from_numpy(np.array(picture))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _read_mask(encoded: bytes, place: str) -> Tensor:
    if not place.endswith(".npy"):
        return _picture(encoded, "mask", place, "L")
    values = _read_array(encoded, f"trigger picture: mask {place!r}")
    if values.ndim == 2:
        values = values[None]
    form = values.ndim == 3 and len(values) in (1, 3) and values.numel() > 0
    if not form or not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
        raise InputError(f"trigger picture: mask {place!r} must be (H, W) or (C, H, W) of numbers in [0,1]")
    return values.mul_(255)


def _read_array(encoded: bytes, what: str) -> Tensor:
    """Returns the numbers of a .npy file, float64."""
    try:
        array = np.load(io.BytesIO(encoded), allow_pickle=False)
        if array.size > 3 * MOST_PIXELS:
            raise InputError(f"{what} has {array.size:,} numbers; use at most {3 * MOST_PIXELS:,}")
        return torch.from_numpy(array.astype(np.float64))
    except InputError:
        raise
    except Exception as error:  # NumPy raises errors of every type for damaged headers.
        raise InputError(
            f"{what} is not an array of numbers ({reason_of(error)}); save it with numpy.save"
        ) from error
