"""Builds the whole page, whose tabs have a file each."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from abd_hub_app.compare import Compare
from abd_hub_app.distil import Distil
from abd_hub_app.endpoint_values import Page
from abd_hub_app.inspect_tab import Inspect
from abd_hub_app.run_queue import RunQueue
from abd_hub_app.shelf import Shelf
from abd_hub_app.taught import Taught
from abd_hub_app.try_it import TryIt

TITLE = "See a backdoor, see it gone"
STYLE = Path(__file__).with_name("style.css")
_SANS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace")
_OLD_FILES = (600, 3600)
"""Removes every 600 seconds the files of answers and uploads that are older than 3600 seconds."""


def build_page(shelf: Shelf, files: Path, queue: RunQueue, *, local: bool = False) -> gr.Blocks:
    """Builds the page, with the first answers on it already.

    Args:
        shelf: models to show.
        files: folder for the files to download, from which Gradio must be allowed to serve.
        queue: carries out visitors' runs.
        local: whether only this machine reaches the server.

    Raises:
        InputError: no trigger fits the models' images.
    """
    try_it, compare, taught = TryIt(shelf), Compare(shelf, files), Taught(shelf)
    distil = Distil(shelf, queue, local=local)
    inspect = Inspect(shelf, queue, local=local)

    with Page(title=TITLE, analytics_enabled=False, delete_cache=_OLD_FILES) as page:
        gr.HTML(f"<h1>{TITLE}</h1>")
        with gr.Tab("Inspect"):
            inspect.build()
        with gr.Tab("Try it"):
            try_it.build()
        with gr.Tab("Compare"):
            compare.build()
        with gr.Tab("What the teacher taught"):
            taught.build()
        with gr.Tab("Distill"):
            distil.build()
        page.unload(inspect.leave)

    return page


def theme() -> gr.themes.Base:
    """Returns Gradio's default with fonts of the visitor's machine, so that no font is fetched."""
    # The default grays of hints have a contrast of 2 to 1; these grays have 7 to 1.
    return gr.themes.Default(font=_SANS, font_mono=_MONO).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
