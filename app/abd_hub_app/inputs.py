"""Inputs that gradio does not have as they are needed: model files, a secret token, whose request it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel

from abd_hub_app.images import WithoutStub
from abd_hub_app.text import refusal


class ModelFiles(gr.File, metaclass=WithoutStub):  # type: ignore[misc]
    """Gradio's file input, but no address is fetched."""

    is_template = True  # for the page it is gr.File

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuses addresses: this process sends no request to another host for a visitor."""
        if "://" in str(url_or_file_path):
            raise refusal("files: addresses are not fetched; upload the files")
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return moved


class Secret(GradioRootModel):  # type: ignore[misc]
    """A text that shows itself to nobody who prints, logs or stores it."""

    root: Any

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def model_dump(self, *_: Any, **__: Any) -> str:
        """Nothing: gradio keeps what this gives with the session, and can write it into a file."""
        return ""


class TokenInput(gr.Textbox, metaclass=WithoutStub):  # type: ignore[misc]
    """A password field whose content only reaches the function that asks for it."""

    is_template = True  # for the page it is gr.Textbox
    data_model = Secret

    def preprocess(self, payload: Any) -> str:
        """The text without spaces at its ends."""
        given = payload.root if isinstance(payload, Secret) else None
        return given.strip() if isinstance(given, str) else ""

    def postprocess(self, value: Any) -> str:
        """Always empty: a token never goes back to the page."""
        return ""


def session_of(request: gr.Request) -> str:
    """Returns what tells a visitor from the others while the page is open."""
    return str(request.session_hash)
