"""Reads pictures of visitors within limits."""

from __future__ import annotations

from abc import ABCMeta
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import InputError, decode_picture
from abd_hub_app.text import refusal

LARGEST_FILE = 2_000_000
"""Limits the bytes of a picture file."""
MOST_PIXELS = 4_000_000
"""Limits the pixels; 4 megapixels take 12 MB decoded. A file of 0.3 MB can hold 100 megapixels."""
MOST_JPEG_PIXELS = 64_000_000
"""Limits the pixels of a JPEG; a telephone takes photographs of 12 to 50 megapixels."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_USE = f"use a PNG, JPEG, WebP, BMP or GIF of at most {MOST_PIXELS // 1_000_000} megapixels"


class WithoutStub(type(gr.Image)):  # type: ignore[misc]
    """Replaces Gradio's metaclass, which writes a .pyi file, as the package may be read-only."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        """Creates the class by the parent of Gradio's metaclass."""
        return ABCMeta.__new__(cls, name, bases, attributes)


class PictureInput(gr.Image, metaclass=WithoutStub):  # type: ignore[misc]
    """Extends Gradio's image, so that it checks a file before it decodes it and fetches no address."""

    is_template = True  # the page shows it as gr.Image

    def preprocess(self, payload: Any) -> Image.Image | None:
        """Returns the uploaded file as an RGB picture.

        Raises:
            gr.Error: the file is no picture, or too large.
        """
        if payload is None:
            return None
        if not payload.path:
            raise refusal(f"image: has no file; {_USE}")
        # Gradio checks a path only if the request marks it as a file.
        if not Path(payload.path).resolve().is_relative_to(Path(self.GRADIO_CACHE).resolve()):
            raise refusal("image: is no file that was uploaded here; upload it first")
        if not Path(payload.path).is_file():
            raise refusal("image: is no longer on the server; upload it again")
        try:
            return read_picture(payload.path)
        except InputError as error:
            raise refusal(error) from error

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuses addresses, as this process sends no request to another host for a visitor."""
        if "://" in str(url_or_file_path):
            raise refusal("image: addresses are not fetched; upload the file")
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return moved


def read_picture(file: str | Path) -> Image.Image:
    """Returns the first frame of a picture file, RGB, upright.

    A photograph of a telephone has more than ``MOST_PIXELS``, and is read at a half or a quarter of its size.

    Raises:
        InputError: the file is no picture of a known format, too large, damaged, or has 16 bits a channel.
    """
    if Path(file).stat().st_size > LARGEST_FILE:
        raise InputError(f"image: the file is too large; {_USE} and {LARGEST_FILE // 1_000_000} MB")
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
