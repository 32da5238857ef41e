"""Draws Grad-CAM as a heat map over the image."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from abd_hub import Classifier, GradCam, InputError
from abd_hub_app.images import to_picture

NOTE = (
    "The heat maps (Grad-CAM) show in yellow the places that speak most for the answer, and in dark blue the "
    "places that do not. Each map has its own scale; the image under it is gray."
)
_SIDE = 128
_HEAT = 0.6
_NOTHING = 1e-12
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "center", "right")


def look_into(classifier: Classifier) -> GradCam | None:
    """Returns the Grad-CAM of a classifier; None without a feature map, as in a transformer."""
    try:
        return GradCam(classifier)
    except InputError:
        return None


def overlay(image: Tensor, attention: Tensor) -> Image.Image:
    """Draws a map over an image, with each of the image's pixels as a square.

    Args:
        image: (C, H, W) in [0, 1].
        attention: (h, w), not negative; scaled from 0 to its own maximum, and interpolated linearly.
    """
    share = F.interpolate(attention[None, None].double(), image.shape[1:], mode="bilinear")[0, 0]
    share = share / share.max().clamp_min(_NOTHING)
    heat = _colors()[(share * 255).round().long()].permute(2, 0, 1)
    gray = image.double().mean(0, keepdim=True)
    return to_picture((1 - _HEAT) * gray + _HEAT * heat, side=_SIDE)


def as_address(picture: Image.Image) -> str:
    """Returns a picture as a PNG in a data: address."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def place_in_words(attention: Tensor) -> str:
    """Says where a map (h, w) is strongest, for people who cannot see it."""
    if not bool(attention.max() > 0):
        return "nothing in the image speaks for this answer"
    row, column = divmod(int(attention.argmax()), attention.shape[1])

    words = (
        _ROWS[_third(row, attention.shape[0])],
        _COLUMNS[_third(column, attention.shape[1])],
    )
    return f"strongest at the {' '.join(words)}"


def _third(index: int, count: int) -> int:
    return int(3 * (index + 0.5) / count)


@lru_cache(maxsize=1)
def _colors() -> Tensor:
    """Returns cividis, which color-blind people see alike, as (256, 3) in [0, 1]."""
    from matplotlib import colormaps

    return torch.from_numpy(np.asarray(colormaps["cividis"](np.arange(256)))[:, :3].copy())
