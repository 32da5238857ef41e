"""Adds inputs that Gradio lacks: model files, a secret token, and the session of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel

from abd_hub_app.images import WithoutStub
from abd_hub_app.text import refusal


class ModelFiles(gr.File, metaclass=WithoutStub):  # type: ignore[misc]
    """Extends Gradio's file input, so that it fetches no address."""

    is_template = True  # the page shows it as gr.File

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuses addresses, as this process sends no request to another host for a visitor."""
        if "://" in str(url_or_file_path):
            raise refusal("files: addresses are not fetched; upload the files")
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)
        return moved


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
