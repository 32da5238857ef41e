"""Puts a trigger on the image that the visitor paints in pixels of any color."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abd_hub import InputError, Trigger, decode_picture
from abd_hub_app.images import MOST_PIXELS
from abd_hub_app.triggers import Knob, Offer, as_number

NAME = "drawn"
SUMMARY = "Paint on the image with pointer, touch or keys."
_START = "data:image/png;base64,"
_PAINTED = 128
_JS = Path(__file__).with_name("drawing.js")
_TEMPLATE = """\
<div class="abd-drawing">
  <div class="abd-canvas" style="aspect-ratio: WIDTH / HEIGHT">
    <canvas width="WIDTH" height="HEIGHT" tabindex="0" role="application"
      aria-label="Your trigger, WIDTH by HEIGHT pixels: arrows move, space paints, delete erases."></canvas>
    <span class="abd-cursor" style="width: calc(100% / WIDTH); height: calc(100% / HEIGHT)"></span>
  </div>
  <div class="abd-tools">
    <label>Color <input type="color" value="#ffffff"></label>
    <label><input type="checkbox"> Erase</label>
    <button type="button">Clear</button>
  </div>
  <span aria-live="polite" class="abd-unseen"></span>
</div>"""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Puts painted pixels over an image by ``(1 - m a) x + m a t`` with paint t, mask m and strength a."""

    picture: Tensor = field(repr=False, compare=False)
    """Holds (4, H, W) in [0, 1]: red, green, blue, and 1 for a painted pixel, else 0."""
    alpha: float = 1.0
    """Sets the share of the paint in the result; 1 is opaque."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise InputError(f"trigger drawn: strength {self.alpha!r} must be a number above 0, at most 1")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns float (N, C, H, W) in [0, 1] like the input; the paint turns gray on gray images."""
        paint, mask = self.picture[:3], self.picture[3:] * self.alpha
        if pixels.shape[1] == 1:
            paint = paint.mean(0, keepdim=True)
        return ((1 - mask) * pixels + mask * paint).to(pixels.dtype)


@dataclass(frozen=True, kw_only=True)
class DrawnOffer(Offer):
    """Offers the drawing as a trigger."""

    name: str = NAME
    summary: str = SUMMARY
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: bool = False

    def knobs(self) -> dict[str, Knob]:
        """Returns the strength, its only knob."""
        return {"strength": Knob(field="alpha", value=1.0, whole=False)}


def build_drawn(
    address: object, strength: float | None, height: int, width: int
) -> tuple[Trigger, dict[str, Any]]:
    """Returns the trigger and its options.

    Raises:
        InputError: the drawing is missing, or the strength is wrong.
    """
    picture, painted = read_drawing(address, height, width)
    alpha = 1.0 if strength is None else as_number("strength", strength, whole=False)
    return Drawn(picture=picture, alpha=alpha), {"alpha": alpha, "painted": painted}


def read_drawing(address: object, height: int, width: int) -> tuple[Tensor, int]:
    """Reads a drawing.

    Args:
        address: a PNG as a data: address, whose opaque pixels are painted; "" is an empty drawing.
        height: of the images; a drawing of another size is scaled without a blend of its pixels.
        width: of the images.

    Returns:
        (4, height, width) in [0, 1], the last channel 0 or 1, and the number of painted pixels.

    Raises:
        InputError: the drawing is missing or no PNG.
    """
    if not isinstance(address, str):
        raise InputError(f"drawn: is missing; give a PNG as {_START}...")
    if not address:
        return torch.zeros(4, height, width), 0
    if not address.startswith(_START):
        raise InputError(f"drawn: is no drawing; give a PNG as {_START}...")

    try:
        content = base64.b64decode(address.removeprefix(_START), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("drawn: is not base64; give the bytes of a PNG file in base64") from error

    picture = decode_picture(
        content, "drawn: the drawing", formats=("PNG",), mode="RGBA", most_pixels=MOST_PIXELS
    )
    values = torch.from_numpy(np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)).copy())

    pixels = values.permute(2, 0, 1).float() / 255
    mask = values[..., 3] >= _PAINTED
    pixels[3] = mask
    return pixels, int(mask.sum())


def drawing_pad(height: int, width: int, **options: Any) -> gr.HTML:
    """Returns the pad for painting, whose value ``read_drawing`` takes."""
    return gr.HTML(
        "",
        html_template=_TEMPLATE.replace("WIDTH", str(width)).replace("HEIGHT", str(height)),
        js_on_load=_JS.read_text(encoding="utf-8"),
        label="drawn",
        elem_id="drawing",
        **options,
    )
