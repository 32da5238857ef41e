"""Builds the tab "Distill", which runs a short distillation on this server and shows its progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
import yaml

from abd_hub import InputError
from abd_hub_app import distil_request
from abd_hub_app.checks import as_whole
from abd_hub_app.distil_form import DistilForm
from abd_hub_app.distil_outputs import build_outputs, finished, under_way, without_result
from abd_hub_app.distil_push import Push
from abd_hub_app.distil_request import DistilRequest
from abd_hub_app.follow import follow
from abd_hub_app.inputs import session_of
from abd_hub_app.run_job import CONFIG, Job, State
from abd_hub_app.run_queue import RunQueue
from abd_hub_app.shelf import Shelf
from abd_hub_app.text import refusal

_LEAD = """\
<p class="abd-lead">Distill a teacher into a small student <b>without its training data</b>, with or without a
defense. The server works on one run at a time. Your run ends when you close this page.</p>"""
_API = """\
Distills a teacher into a student, without data, and reports the progress.

Args:
    teacher: "shelf:NAME" for a model on the page; "hub", "files" or "folder" for a model in hub_id, files or
        folder.
    hub_id: id of a public repository, org/name or org/name@revision.
    files: config.json and model.safetensors.
    folder: folder on the server's machine; only for a server that no other machine reaches.
    method: registered name.
    defenses: registered names; none for a plain distillation.
    rounds: number of pseudo-batches.
    minutes: time limit of the run.
    seed: seeds every random draw.
    student: architecture.
    vaccine_check: use the shuffling vaccine only if its own check accepts it.
    vaccine_layers: number of the teacher's last layers that the vaccine shuffles.
    request: identifies the visitor.

Returns:
    A series of (progress as HTML, result as HTML, pictures, the folder as zip, summary). The summary has
    the state, the finished rounds, the figures of the log, and at the end the record.
"""
"""Documents the endpoint for programs."""


class Distil:
    """Builds the tab, answers its endpoints and connects them."""

    def __init__(self, shelf: Shelf, queue: RunQueue, *, local: bool) -> None:
        """Creates the tab.

        Args:
            shelf: the models on the page.
            queue: carries out the runs.
            local: whether only this machine reaches the server, so that visitors may name its folders.
        """
        self.shelf = shelf
        self.queue = queue
        self.form = DistilForm(shelf, local=local)
        self.push = Push(queue)

    # --------------------------------------------------------------------------------------- endpoints

    async def distil(
        self,
        teacher: str,
        hub_id: str | None,
        files: list[str] | None,
        folder: str | None,
        method: str,
        defenses: list[str],
        rounds: float,
        minutes: float,
        seed: float,
        student: str,
        vaccine_check: bool,
        vaccine_layers: float,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Distills and reports the progress; ``_API`` documents the parameters and results."""
        session = session_of(request)
        try:
            asked = DistilRequest(
                method=method,
                defenses=tuple(defenses),
                rounds=as_whole(rounds),
                minutes=minutes,
                seed=as_whole(seed),
                student=student,
                vaccine_check=bool(vaccine_check),
                vaccine_layers=as_whole(vaccine_layers),
            )
            choice = (teacher, hub_id or "", files or [], folder or "")
            job = await asyncio.to_thread(self._submit, session, asked, *choice)
        except InputError as error:
            raise refusal(error) from error

        try:
            async for shown in self._follow(job, asked):
                yield shown
        finally:
            if not job.over:
                self.queue.leave(session)

    def cancel(self, request: gr.Request) -> bool:
        """Ends your run; returns whether there was one."""
        return self.queue.cancel(session_of(request))

    # -------------------------------------------------------------------------------------------- page

    def build(self) -> None:
        """Puts the tab on the page."""
        gr.HTML(_LEAD)
        with gr.Row(equal_height=False, elem_id="distil"):
            with gr.Column(min_width=0, elem_classes="abd-request"):
                inputs = self.form.build()
                with gr.Row():
                    start = gr.Button("Distill", variant="primary", elem_id="distil-start", min_width=120)
                    stop = gr.Button("Cancel", variant="stop", elem_id="distil-cancel", min_width=120)
            with gr.Column(min_width=0, elem_classes="abd-outcome"):
                shown = build_outputs()
                self.push.build()

        self._on_start(start, inputs, shown)
        self._on_stop(stop)

    def _on_start(self, start: gr.Button, inputs: list[Any], shown: list[Any]) -> None:
        start.click(
            self.distil,
            inputs,
            shown,
            api_name="distil",
            api_description=_API,
            # The queue has its own line, so a run does not wait behind the predictions of others.
            concurrency_limit=None,
            concurrency_id="distil",
            show_progress="hidden",
        )

    def _on_stop(self, stop: gr.Button) -> None:
        ended = gr.Checkbox(visible=False)
        stop.click(
            self.cancel,
            None,
            ended,
            api_name="cancel",
            api_description=self.cancel.__doc__,
            # The line of predictions may be full.
            queue=False,
            show_progress="hidden",
        )

    # --------------------------------------------------------------------------------------------- run

    def _submit(
        self, session: str, asked: DistilRequest, teacher: str, hub_id: str, files: Sequence[str], folder: str
    ) -> Job:
        self.queue.check(session)
        place = self.queue.folder()

        try:
            source = self.form.teacher.source(teacher, hub_id, files, folder, place)
            settings = distil_request.configuration(asked, source, self.shelf, str(place / "student"))
            (place / CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
            return self.queue.submit(session, place, 60 * asked.minutes)
        except BaseException:
            self.queue.discard(place)
            raise

    async def _follow(self, job: Job, asked: DistilRequest) -> AsyncIterator[tuple[Any, ...]]:
        """Yields the values for the page after every change, until the run is over."""
        first = True
        async for view in follow(self.queue, job):
            if view.state is State.DONE:
                yield await asyncio.to_thread(finished, view, job, asked)
            elif view.state in (State.WAITING, State.RUNNING):
                yield under_way(view, job, asked, first=first)
            else:
                yield without_result(view, job, asked)
                if view.state is State.FAILED:
                    raise refusal(view.reason)
            first = False
