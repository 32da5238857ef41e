"""Builds the fields of the tab "Distill" for teacher, method, defenses and limits."""

from __future__ import annotations

from typing import Any

import gradio as gr

from abd_hub import catalog
from abd_hub_app import distil_request
from abd_hub_app.checks import MOST_MINUTES
from abd_hub_app.shelf import Shelf
from abd_hub_app.source_fields import SourceFields


class DistilForm:
    """Builds the fields with first values that suit the models on the page."""

    def __init__(self, shelf: Shelf, *, local: bool) -> None:
        self.shelf = shelf
        self.teacher = SourceFields(shelf, local=local, tab="distil", label="Teacher")

    def build(self) -> list[Any]:
        """Puts the fields on the page, in the order of the endpoint's parameters."""
        return [*self.teacher.build(), *self._settings()]

    def _settings(self) -> list[Any]:
        size = self.shelf.size
        method = _method()
        defenses = gr.CheckboxGroup(
            [(name.replace("_", " "), name) for name in distil_request.defenses()],
            label="Defenses",
            info="ABD is the vaccine with self-retrospection in the paper, with the direction in the demo",
            elem_id="distil-defenses",
        )
        rounds, minutes = _bounds(distil_request.usual_rounds(size))

        with gr.Accordion("More settings", open=False):
            # With more than two shuffled layers, a network for 8x8 images gives every image the same class.
            seed, layers = _numbers(layers=2 if distil_request.is_small(size) else 5)
            student = gr.Dropdown(
                [(_summary_of("students", name), name) for name in distil_request.students()],
                value=distil_request.usual_student(size),
                label="Student",
                elem_id="distil-student",
            )
            check = gr.Checkbox(
                False,
                label="Use the vaccine only if its own check accepts it (the paper's policy)",
                elem_id="distil-check",
            )
        return [method, defenses, rounds, minutes, seed, student, check, layers]


def _method() -> gr.Dropdown:
    methods = distil_request.methods()
    method = gr.Dropdown(
        list(methods),
        value=methods[0],
        label="Method",
        info=_summary_of("synthesizers", methods[0]),
        elem_id="distil-method",
    )
    method.input(
        lambda name: gr.update(info=_summary_of("synthesizers", name)),
        method,
        method,
        api_visibility="private",
        show_progress="hidden",
        queue=False,
    )
    return method


def _bounds(rounds: int) -> tuple[gr.Number, gr.Number]:
    """Puts rounds and minutes on the page."""
    with gr.Row():
        shown = gr.Number(
            rounds,
            label="Rounds",
            info=f"up to {distil_request.MOST_ROUNDS}",
            precision=0,
            min_width=120,
            elem_id="distil-rounds",
        )
        minutes = gr.Number(
            5,
            label="Minutes at most",
            info=f"up to {MOST_MINUTES:g}",
            min_width=120,
            elem_id="distil-minutes",
        )
    return shown, minutes


def _numbers(layers: int) -> tuple[gr.Number, gr.Number]:
    """Puts the seed and the number of shuffled layers on the page."""
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="distil-seed")
        shuffled = gr.Number(
            layers,
            label="Layers the vaccine shuffles",
            precision=0,
            min_width=120,
            elem_id="distil-layers",
        )
    return seed, shuffled


def _summary_of(kind: str, name: str) -> str:
    return next((entry.summary for entry in catalog(kind) if entry.name == name), "")
