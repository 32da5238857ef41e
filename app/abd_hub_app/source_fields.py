"""Builds the fields with which a visitor chooses a model, and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from abd_hub import InputError
from abd_hub_app import sources
from abd_hub_app.inputs import ModelFiles
from abd_hub_app.shelf import Shelf
from abd_hub_app.sources import Source
from abd_hub_app.text import one_line

HUB, FILES, FOLDER = "hub", "files", "folder"
SHELF = "shelf:"


class SourceFields:
    """Offers the models on the page, the Hub, an upload and, to this machine alone, a folder."""

    def __init__(self, shelf: Shelf, *, local: bool, tab: str, label: str) -> None:
        """Creates the fields.

        Args:
            shelf: the models on the page.
            local: whether only this machine reaches the server, so that visitors may name its folders.
            tab: begins the names of the elements on the page.
            label: stands above the choice.
        """
        self.shelf = shelf
        self.local = local
        self.tab = tab
        self.label = label

    def build(self) -> list[Any]:
        """Puts the choice, the Hub id, the files and the folder on the page."""
        offered = self.offered()
        choice = gr.Dropdown(
            offered,
            value=offered[0][1],
            label=self.label,
            info="safetensors only",
            elem_id=f"{self.tab}-teacher",
        )
        fields = [self._hub_id(), self._files(), self._folder()]
        choice.input(
            _only_field, choice, fields, api_visibility="private", show_progress="hidden", queue=False
        )
        return [choice, *fields]

    def offered(self) -> list[tuple[str, str]]:
        """Returns (words, value) of every choice."""
        first = sources.first_choice(self.shelf)
        models = sorted(self.shelf.models, key=lambda model: model is not first)
        shown = [
            (one_line(f"{model.name}: {self.shelf.kind(model)}", 90), SHELF + model.name) for model in models
        ]
        elsewhere = [("A model from the Hub", HUB), ("Files that I upload", FILES)]
        own_folder = [("A folder on this machine", FOLDER)] if self.local else []
        return [*shown, *elsewhere, *own_folder]

    def source(self, choice: str, hub_id: str, files: Sequence[str], folder: str, place: Path) -> Source:
        """Returns the chosen model.

        Args:
            choice: one of ``offered``.
            hub_id: of a public repository.
            files: were uploaded.
            folder: on this machine.
            place: folder of the run, which gets a copy of the files.

        Raises:
            InputError: the model is not offered, or cannot be one.
        """
        if choice.startswith(SHELF):
            return sources.from_shelf(self.shelf, choice.removeprefix(SHELF))
        if choice == HUB:
            return sources.from_hub(hub_id)
        if choice == FILES:
            return sources.from_files(files, place / sources.UPLOADED)
        if choice == FOLDER and self.local:
            return sources.from_folder(folder)
        if choice == FOLDER:
            raise InputError(
                "folder: this server is open to others, so it reads none of its own folders; upload the files"
            )
        offered = ", ".join(value for _, value in self.offered())
        raise InputError(f"teacher: {choice[:80]!r} is not offered; use {offered}")

    def _hub_id(self) -> gr.Textbox:
        return gr.Textbox(
            label="Hub id",
            info="of a public repository",
            placeholder="org/name or org/name@revision",
            visible=False,
            max_length=200,
            elem_id=f"{self.tab}-hub",
        )

    def _files(self) -> ModelFiles:
        return ModelFiles(
            label=" and ".join(sources.FILES),
            file_count="multiple",
            height=160,
            visible=False,
            elem_id=f"{self.tab}-files",
        )

    def _folder(self) -> gr.Textbox:
        return gr.Textbox(
            label="Folder",
            info="on this machine, with config.json and safetensors",
            visible=False,
            max_length=1000,
            elem_id=f"{self.tab}-folder",
        )


def _only_field(choice: str) -> list[Any]:
    """Shows the field of the chosen source and hides the other two."""
    return [gr.update(visible=choice == name) for name in (HUB, FILES, FOLDER)]
