"""Reads pictures of visitors within limits, and turns them into tensors and back with their exact pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abd_hub import InputError, decode_picture

LARGEST_FILE = 2_000_000
"""Limits the bytes of a picture file."""
MOST_PIXELS = 4_000_000
"""Limits the pixels; 4 megapixels take 12 MB decoded. A file of 0.3 MB can hold 100 megapixels."""
MOST_JPEG_PIXELS = 64_000_000
"""Limits the pixels of a JPEG; a telephone takes photographs of 12 to 50 megapixels."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_SHOWN_SIDE = 256
USE = f"use a PNG, JPEG, WebP, BMP or GIF of at most {MOST_PIXELS // 1_000_000} megapixels"


def read_picture(file: str | Path) -> Image.Image:
    """Returns the first frame of a picture file, RGB, upright.

    A photograph of a telephone has more than ``MOST_PIXELS``, and is read at a half or a quarter of its size.

    Raises:
        InputError: the file is no picture of a known format, too large, damaged, or has 16 bits a channel.
    """
    if Path(file).stat().st_size > LARGEST_FILE:
        raise InputError(f"image: the file is too large; {USE} and {LARGEST_FILE // 1_000_000} MB")
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InputError("image: the file cannot be read; upload it again") from error
    return decode_picture(
        content,
        "image: the file",
        formats=FORMATS,
        most_pixels=MOST_PIXELS,
        most_jpeg_pixels=MOST_JPEG_PIXELS,
    )


def to_pixels(picture: Image.Image) -> Tensor:
    """Returns the picture at its own size, (1, 3, height, width) float32 in [0, 1]."""
    values = np.array(picture.convert("RGB"))
    return torch.from_numpy(values).permute(2, 0, 1)[None].float().div_(255)


def to_picture(pixels: Tensor, side: int = _SHOWN_SIDE) -> Image.Image:
    """Returns an image (C, H, W) in [0, 1] at 8 bits, enlarged by squares to a side of at least ``side``."""
    levels = (pixels.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    rgb = levels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    factor = max(1, math.ceil(side / max(rgb.shape[:2])))
    return Image.fromarray(np.ascontiguousarray(rgb.repeat(factor, 0).repeat(factor, 1)))
