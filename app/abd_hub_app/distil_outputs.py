"""Builds the five parts of the tab "Distill" that show a run, and their values from beginning to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import RunRecord, read_record
from abd_hub_app.distil_request import DistilRequest
from abd_hub_app.distil_shown import progress, result, told
from abd_hub_app.images import read_picture
from abd_hub_app.run_job import Job, State, View
from abd_hub_app.text import one_line

_IDLE = '<p class="abd-status">Nothing is running. A run on a CPU takes minutes.</p>'
_PICTURES = ("training_images.png", "verdicts_*.png")
_MOST_PICTURES = 5
_Picture = tuple[Image.Image, str]


def build_outputs() -> list[Any]:
    """Puts on the page the five parts that show a run."""
    status = gr.HTML(_IDLE, elem_id="distil-progress")
    verdict = gr.HTML("", elem_id="distil-result")
    download = gr.DownloadButton("Download the student (zip)", visible=False, elem_id="distil-download")
    pictures = gr.Gallery(
        label="Images that the student learned from, and its verdicts",
        format="png",
        columns=1,
        height="auto",
        object_fit="contain",
        interactive=False,
        visible=False,
        buttons=["fullscreen"],
        elem_id="distil-pictures",
    )
    with gr.Accordion("All numbers", open=False):
        numbers = gr.JSON(label="State, log and record", max_height=320, elem_id="distil-numbers")
    return [status, verdict, pictures, download, numbers]


def under_way(view: View, job: Job, asked: DistilRequest, *, first: bool) -> tuple[Any, ...]:
    """Returns the values of the five parts during the run; the first ones clear an earlier run."""
    shown = progress(view, asked.rounds, job.limit)
    cleared = ("", gr.update(value=None, visible=False), gr.update(value=None, visible=False))
    kept = cleared if first else (gr.skip(), gr.skip(), gr.skip())
    return shown, *kept, _summary(view, asked)


def without_result(view: View, job: Job, asked: DistilRequest) -> tuple[Any, ...]:
    """Returns the values of the five parts for a run that was cancelled or failed."""
    shown = progress(view, asked.rounds, job.limit)
    failed = view.state is State.FAILED
    words = told("Not possible", view.reason, "fooled") if failed else ""
    hidden = gr.update(value=None, visible=False)
    return shown, words, hidden, hidden, _summary(view, asked)


def finished(view: View, job: Job, asked: DistilRequest) -> tuple[Any, ...]:
    """Returns the values of the five parts for a run that has a result."""
    record = read_record(job.run)
    return (
        progress(view, asked.rounds, job.limit),
        result(record),
        gr.update(value=_pictures(job.run), visible=True),
        gr.update(value=str(job.archive), visible=True),
        _summary(view, asked, record),
    )


def _pictures(run: Path) -> list[_Picture]:
    files = [file for pattern in _PICTURES for file in sorted((run / "samples").glob(pattern))]
    return [(read_picture(file), one_line(file.stem.replace("_", " "))) for file in files[:_MOST_PICTURES]]


def _summary(view: View, asked: DistilRequest, record: RunRecord | None = None) -> dict[str, Any]:
    return {
        "state": view.state.value,
        "before": view.before,
        "round": view.round,
        "rounds": asked.rounds,
        "seconds": round(view.seconds, 1),
        "reason": view.reason,
        "log": list(view.rows),
        "record": None if record is None else dataclasses.asdict(record),
    }
