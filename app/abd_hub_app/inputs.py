"""Adds inputs that Gradio lacks: pictures and model files of visitors, a secret token, and a session."""

from __future__ import annotations

from abc import ABCMeta
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel
from PIL import Image

from abd_hub import InputError
from abd_hub_app.images import USE, read_picture
from abd_hub_app.text import refusal


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
            raise refusal(f"image: has no file; {USE}")
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


class ModelFiles(gr.File, metaclass=WithoutStub):  # type: ignore[misc]
    """Extends Gradio's file input, so that it fetches no address."""

    is_template = True  # the page shows it as gr.File

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuses addresses, as this process sends no request to another host for a visitor."""
        if "://" in str(url_or_file_path):
            raise refusal("files: addresses are not fetched; upload the files")
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return moved

    def _process_single_file(self, f: Any) -> str:
        """Returns the path of an uploaded file; Gradio's own method leaves an empty file behind each time.

        Raises:
            gr.Error: the file is none that was uploaded here.
        """
        # Gradio checks a path only if the request marks it as a file.
        if not Path(f.path).resolve().is_relative_to(Path(self.GRADIO_CACHE).resolve()):
            raise refusal("files: one was not uploaded here; upload it first")
        return str(f.path)


class Secret(GradioRootModel):  # type: ignore[misc]
    """Holds a text that stays hidden when it is printed, logged or stored."""

    root: Any

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def model_dump(self, *_: Any, **__: Any) -> str:
        """Returns an empty text, because Gradio keeps it with the session and can write it into a file."""
        return ""


class TokenInput(gr.Textbox, metaclass=WithoutStub):  # type: ignore[misc]
    """Extends Gradio's text box to a password field, whose content reaches only the function behind it."""

    is_template = True  # the page shows it as gr.Textbox
    data_model = Secret

    def preprocess(self, payload: Any) -> str:
        """Returns the text without spaces at its ends."""
        text = payload.root if isinstance(payload, Secret) else None
        return text.strip() if isinstance(text, str) else ""

    def postprocess(self, value: Any) -> str:
        """Returns an empty text, because a token never goes back to the page."""
        return ""


def session_of(request: gr.Request) -> str:
    """Returns the key of a visitor while the page is open."""
    return str(request.session_hash)
