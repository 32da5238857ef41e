"""Turns pictures into tensors, and tensors into pictures with their exact pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_SHOWN_SIDE = 256


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
