"""This module writes images side by side into PNG files, pixel by pixel and without matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GRAY = "#56B4E9", "#CC79A7", "#000000", "#666666"


_GAP = 4
_FRAME, _WHITE = 192, 255
"""Fill the gaps between images: gray contrasts with white and black edges, and white separates frames."""
_SMALL_SIDE = 128
MARK_FRAME = 8
"""Gives the width of the frame of ``mark_image`` in pixels."""
_MARKED_SIDE, _MARK_BAND = 96, 28
_NAME_SIZE, _NOTE_SIZE, _MARGIN = 22, 17, 16
"""Give the sizes of the text on a contact sheet and of its margins, in pixels."""


def save_samples(pixels: Any, path: str | Path, columns: int = 8) -> None:
    """Writes a grid of images; a pixel becomes a square, at least 4x4 for images of 32 or smaller.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        path: the PNG file to write.
        columns: images in a row.

    Raises:
        ValueError: there is no image.
    """
    images = zoomed(pixels)
    if not len(images):
        raise ValueError("pixels: holds no image")
    _grid(images, min(columns, len(images)), _GAP, _FRAME).save(path, format="PNG")


def save_mosaic(pixels: Any, path: str | Path, columns: int) -> None:
    """Writes images row by row, without gaps and in their own size; free places are gray.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        path: the PNG file to write.
        columns: images in a row.
    """
    _grid(_levels(pixels), columns, 0, _FRAME).save(path, format="PNG", optimize=True)


def mark_image(picture: Image.Image, suspicious: bool, note: str = "") -> Image.Image:
    """Enlarges an image, each pixel to a square, and frames it; a suspicious image gets a warning sign.

    Args:
        picture: RGB.
        suspicious: draw an orange and black frame, and a warning sign below the image.
        note: a few words below the image.

    Returns:
        The framed image; the image's own pixels begin ``MARK_FRAME`` from the top and the left.
    """
    zoom = max(1, _MARKED_SIDE // max(picture.size))
    width, height = picture.width * zoom, picture.height * zoom
    sheet = Image.new("RGB", (width + 2 * MARK_FRAME, height + 2 * MARK_FRAME + _MARK_BAND), "white")
    draw = ImageDraw.Draw(sheet)
    right, bottom = width + 2 * MARK_FRAME - 1, height + 2 * MARK_FRAME - 1
    draw.rectangle((0, 0, right, bottom), fill=VERMILION if suspicious else (_FRAME,) * 3)
    if suspicious:
        draw.rectangle((0, 0, right, bottom), outline=BLACK, width=2)
        draw.rectangle(
            (MARK_FRAME - 2, MARK_FRAME - 2, right - MARK_FRAME + 2, bottom - MARK_FRAME + 2), fill="white"
        )
    sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (MARK_FRAME, MARK_FRAME))
    middle = bottom + 1 + _MARK_BAND / 2
    left = MARK_FRAME
    if suspicious:
        corners = [(left, middle + 9), (left + 22, middle + 9), (left + 11, middle - 10)]
        draw.polygon(corners, fill=VERMILION, outline=BLACK)
        draw.text((left + 11, middle + 2), "!", fill="white", font=_font(14), anchor="mm")
        left += 28
    draw.text((left, middle), note, fill=BLACK, font=_font(_NOTE_SIZE), anchor="lm")
    return sheet


def save_marked(
    pixels: Any, suspicious: Sequence[bool], kl: Sequence[float], path: str | Path, columns: int = 8
) -> None:
    """Writes a grid of ``mark_image`` with the divergence below each image.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        suspicious: N values, whether each image is suspicious.
        kl: N divergences, in nats.
        path: the PNG file to write.
        columns: images in a row.
    """
    save_noted(pixels, suspicious, [f"{value:.2g}" for value in kl], path, columns)


def save_noted(
    pixels: Any, suspicious: Sequence[bool], notes: Sequence[str], path: str | Path, columns: int = 8
) -> None:
    """A grid of ``mark_image`` with a few words below each image.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        suspicious: N.
        notes: N.
        path: the PNG file to write.
        columns: images in a row.
    """
    marked = [
        np.asarray(mark_image(Image.fromarray(image), bad, note))
        for image, bad, note in zip(_levels(pixels), suspicious, notes, strict=True)
    ]
    sheet = _grid(np.stack(marked), min(columns, len(marked)), _GAP, _WHITE)
    sheet.save(path, format="PNG", optimize=True)


def _grid(images: NDArray[np.uint8], columns: int, gap: int, fill: int) -> Image.Image:
    """Places (N, H, W, 3) bytes row by row, with gaps between the images and around them.

    torchvision's ``make_grid`` does the same, but leaves no gaps around a single image.
    """
    count, height, width, _ = images.shape
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    grid = np.full(shape, fill, dtype=np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return Image.fromarray(grid)


def save_pattern(pattern: Any, path: str | Path) -> None:
    """Writes a signed pattern, each pixel as a square.

    Gray is 0, white is the largest absolute value, and black is its negative.

    Args:
        pattern: (C, H, W) with C 1 or 3.
        path: the PNG file to write.
    """
    values = _array(pattern)[None]
    largest = float(np.abs(values).max()) or 1.0
    (image,) = zoomed(0.5 + values / (2 * largest))
    Image.fromarray(image).save(path, format="PNG", optimize=True)


@dataclass(frozen=True)
class SheetRow:
    """Holds one row of a contact sheet."""

    name: str
    """Names the content of the row."""
    note: str = ""
    """Holds a few words under the name."""
    blocks: tuple[Any, ...] = ()
    """Holds groups of images side by side, each (N, C, H, W) float in [0, 1]; all images have one size."""


def save_contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str], path: str | Path) -> None:
    """Writes a table of images, with names on the left and one group of images a row under each title.

    A pixel of an image becomes a square of pixels; none is smoothed. A row may leave groups empty.

    Args:
        rows: the rows from top to bottom; the first row holds images.
        titles: the titles of the groups, from left to right.
        path: the PNG file to write.

    Raises:
        ValueError: the first row holds no image.
    """
    if not rows or not rows[0].blocks or not len(rows[0].blocks[0]):
        raise ValueError("rows: the first row holds no image")

    count, height, width, _ = zoomed(rows[0].blocks[0]).shape
    font, small = _font(_NAME_SIZE), _font(_NOTE_SIZE)
    text = [(font, row.name) for row in rows] + [(small, row.note) for row in rows]
    left = 2 * _MARGIN + math.ceil(max(face.getlength(words) for face, words in text))
    group = _MARGIN + math.ceil(max(count * (width + _GAP), *(font.getlength(title) for title in titles)))
    top, line = 3 * _MARGIN, height + _GAP
    sheet = Image.new("RGB", (left + group * len(titles), top + line * len(rows) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, title in enumerate(titles):
        draw.text((left + index * group, top / 2), title, fill=BLACK, font=font, anchor="lm")
    for number, row in enumerate(rows):
        y = top + number * line
        draw.text((_MARGIN, y + height / 2), row.name, fill=BLACK, font=font, anchor="ls")
        draw.text((_MARGIN, y + height / 2 + _NOTE_SIZE / 2), row.note, fill=GRAY, font=small, anchor="lt")
        for block, images in enumerate(row.blocks):
            for column, image in enumerate(zoomed(images)):
                x = left + block * group + column * (width + _GAP)
                sheet.paste(Image.fromarray(image), (x, y))
                # A white trigger at the edge must not melt into the page.
                draw.rectangle((x - 1, y - 1, x + width, y + height), outline=GRAY)
    sheet.save(path, format="PNG")


def _font(size: int) -> Any:
    # The font comes with matplotlib, so every machine writes the same sheet.
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _array(pixels: Any) -> NDArray[np.float32]:
    # This accepts arrays and tensors of any device and precision without an import of torch.
    if hasattr(pixels, "detach"):
        pixels = pixels.detach().float().cpu().numpy()
    return np.asarray(pixels, dtype=np.float32)


def zoomed(pixels: Any) -> NDArray[np.uint8]:
    """Turns (N, C, H, W) floats into (N, H * zoom, W * zoom, 3) bytes, without interpolation."""
    levels = _levels(pixels)
    zoom = max(1, _SMALL_SIDE // max(1, *levels.shape[1:3]))
    return levels.repeat(zoom, axis=1).repeat(zoom, axis=2)


def _levels(pixels: Any) -> NDArray[np.uint8]:
    """Turns (N, C, H, W) floats into (N, H, W, 3) bytes."""
    array = _array(pixels)
    if array.ndim != 4 or array.shape[1] not in {1, 3}:
        raise ValueError(f"pixels: shape {array.shape} is not (N, 1 or 3, H, W)")
    array = np.broadcast_to(array, (len(array), 3, *array.shape[2:])).transpose(0, 2, 3, 1)
    finite = np.nan_to_num(array, nan=0.0)
    return np.rint(np.clip(finite, 0, 1) * 255).astype(np.uint8)
