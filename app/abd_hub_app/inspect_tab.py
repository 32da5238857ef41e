"""Builds the tab "Inspect", which examines a model for a backdoor and goes on from what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from abd_hub import InputError
from abd_hub_app import distil_shown, inspect_shown
from abd_hub_app.bench import PLAIN, PROTECTED, Bench, read_beforehand
from abd_hub_app.bench_shown import results
from abd_hub_app.checks import MOST_MINUTES, as_whole
from abd_hub_app.distil_request import MOST_ROUNDS, usual_rounds
from abd_hub_app.examples import load_examples
from abd_hub_app.follow import follow
from abd_hub_app.inputs import session_of
from abd_hub_app.inspect_request import LEAST_STEPS, MOST_STEPS, USUAL_STEPS, InspectRequest
from abd_hub_app.run_job import PURIFY, Job, State, View
from abd_hub_app.run_queue import RunQueue
from abd_hub_app.shelf import Shelf
from abd_hub_app.source_fields import SourceFields
from abd_hub_app.text import refusal

_LEAD = """\
<p class="abd-lead">Does a model hold a <b>backdoor</b>, and towards which class? The inspection searches for
the smallest trigger towards every class, <b>without any training data</b>. The server works on one run at a
time. Your run ends when you close this page.</p>"""
_IDLE = '<p class="abd-status" role="status">Nothing is running. On a CPU it takes seconds to minutes.</p>'
_NEXT = (
    '<h3>Go on from this model</h3><p class="abd-note">Each button starts a run of 15 minutes at most. '
    "<b>Distill</b> purifies a flagged model before its student learns; <b>Distill plain</b> does not.</p>"
)
_INSPECT = """\
Inspects a model for a backdoor, without its training data, and reports the progress.

Args:
    teacher: "shelf:NAME" for a model on the page; "hub", "files" or "folder" for a model in hub_id, files or
        folder.
    hub_id: id of a public repository, org/name or org/name@revision.
    files: config.json and model.safetensors.
    folder: folder on the server's machine; only for a server that no other machine reaches.
    steps: most steps of the search.
    seed: seeds every random draw.
    minutes: time limit of the run.
    request: identifies the visitor.

Returns:
    A series of (progress as HTML, result as HTML, the part of the page for the next runs, results of these as
    HTML, summary). The summary has the state, and at the end the report.
"""
_PURIFY = """\
Makes a cleaner copy of your inspected model, without its training data, and reports the progress.

Args:
    force: purify also a model that is not flagged.
    request: identifies the visitor.

Returns:
    A series of (progress as HTML, results as HTML, the folder as zip, summary).
"""
_STUDENT = """\
Distills your inspected model into a student, without data, and reports the progress.

Args:
    rounds: number of pseudo-batches.
    request: identifies the visitor.

Returns:
    A series of (progress as HTML, results as HTML, the folder as zip, summary).
"""
_LATER = ("purify", PROTECTED, PLAIN)


class Inspect:
    """Builds the tab, answers its endpoints and connects them."""

    def __init__(self, shelf: Shelf, queue: RunQueue, *, local: bool) -> None:
        """Creates the tab.

        Args:
            shelf: the models on the page.
            queue: carries out the runs.
            local: whether only this machine reaches the server, so that visitors may name its folders.
        """
        self.queue = queue
        self.fields = SourceFields(shelf, local=local, tab="inspect", label="Model")
        self.bench = Bench(shelf, queue, [example.picture for example in load_examples(shelf)])
        self.bench.beforehand = read_beforehand(shelf)

    # --------------------------------------------------------------------------------------- endpoints

    async def inspect(
        self,
        teacher: str,
        hub_id: str | None,
        files: list[str] | None,
        folder: str | None,
        steps: float,
        seed: float,
        minutes: float,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Inspects and reports the progress; ``_INSPECT`` documents the parameters and results."""
        session = session_of(request)
        choice = (teacher, hub_id or "", files or [], folder or "")

        def begin() -> Job:
            asked = InspectRequest(steps=as_whole(steps), seed=as_whole(seed), minutes=minutes)
            return self.bench.inspect(session, asked, lambda place: self.fields.source(*choice, place))

        first = True
        async for job, view in self._run(session, begin):
            bar = inspect_shown.progress(view, job.limit)
            if view.state is State.DONE:
                inspected = self.bench.inspected(session)
                assert inspected is not None, "it is done"
                shown = await asyncio.to_thread(inspect_shown.result, inspected)
                yield bar, shown, gr.update(visible=True), "", summary(view) | _report(inspected)
            elif first:
                yield bar, "", gr.update(visible=False), "", summary(view)
            else:
                told = _told(view)
                yield bar, told, gr.skip(), gr.skip(), summary(view)
            first = False

    async def purify(self, force: bool, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Purifies and reports the progress; ``_PURIFY`` documents the parameters and results."""
        session = session_of(request)
        async for job, view in self._run(session, lambda: self.bench.purify(session, force=bool(force))):
            yield await self._later(session, job, view, inspect_shown.progress(view, job.limit))

    async def protected(self, rounds: float, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Distills from a purified copy; ``_STUDENT`` documents the parameters and results."""
        async for shown in self._student(PROTECTED, as_whole(rounds), session_of(request)):
            yield shown

    async def plain(self, rounds: float, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Distills from the model as it is; ``_STUDENT`` documents the parameters and results."""
        async for shown in self._student(PLAIN, as_whole(rounds), session_of(request)):
            yield shown

    # -------------------------------------------------------------------------------------------- page

    def build(self) -> None:
        """Puts the tab on the page, with an inspection that was made beforehand if there is one."""
        before = self.bench.beforehand
        gr.HTML(_LEAD)
        with gr.Row(equal_height=False, elem_id="inspect"):
            with gr.Column(min_width=0, elem_classes="abd-request"):
                inputs = [*self.fields.build(), *_settings()]
                with gr.Row():
                    start = gr.Button("Inspect", variant="primary", elem_id="inspect-start", min_width=120)
                    stop = gr.Button("Cancel", variant="stop", elem_id="inspect-cancel", min_width=120)
            with gr.Column(min_width=0, elem_classes="abd-outcome"):
                status = gr.HTML(_IDLE, elem_id="inspect-progress")
                verdict = gr.HTML(inspect_shown.result(before) if before else "", elem_id="inspect-result")
                with gr.Column(visible=before is not None, elem_id="inspect-next") as following:
                    later = self._build_later()
                with gr.Accordion("All numbers", open=False):
                    numbers = gr.JSON(label="State and report", max_height=320, elem_id="inspect-numbers")

        shown = [status, verdict, following, later, numbers]
        _on(start, self.inspect, inputs, shown, "inspect", _INSPECT)
        stop.click(self.stop, None, None, api_visibility="private", queue=False)

    def stop(self, request: gr.Request) -> None:
        """Ends the visitor's run."""
        self.queue.cancel(session_of(request))

    def leave(self, request: gr.Request) -> None:
        """Ends the visitor's run and removes all results after the page was closed."""
        self.queue.leave(session_of(request))
        self.bench.leave(session_of(request))

    def _build_later(self) -> gr.HTML:
        """Puts the buttons of the next runs on the page, and returns the place of their results."""
        gr.HTML(_NEXT)
        with gr.Row():
            purify = gr.Button("Purify", variant="primary", elem_id="inspect-purify", min_width=120)
            protected = gr.Button("Distill", variant="primary", elem_id="inspect-protected", min_width=120)
            plain = gr.Button("Distill plain", elem_id="inspect-plain", min_width=120)
        with gr.Accordion("Settings of these runs", open=False):
            force = gr.Checkbox(
                False, label="Purify also a model that is not flagged", elem_id="inspect-force"
            )
            rounds = gr.Number(
                usual_rounds(self.bench.shelf.size),
                label="Rounds of a student",
                info=f"up to {MOST_ROUNDS}",
                precision=0,
                elem_id="inspect-rounds",
            )
        status = gr.HTML("", elem_id="inspect-step")
        outcome = gr.HTML("", elem_id="inspect-outcome")
        download = gr.DownloadButton("Download (zip)", visible=False, elem_id="inspect-download")
        numbers = gr.JSON(visible=False)

        shown = [status, outcome, download, numbers]
        _on(purify, self.purify, [force], shown, "purify", _PURIFY)
        _on(protected, self.protected, [rounds], shown, "distil_protected", _STUDENT)
        _on(plain, self.plain, [rounds], shown, "distil_plain", _STUDENT)
        return outcome

    # -------------------------------------------------------------------------------------------- runs

    async def _student(self, slot: str, rounds: Any, session: str) -> AsyncIterator[tuple[Any, ...]]:
        def begin() -> Job:
            return self.bench.distil(session, slot, rounds)

        async for job, view in self._run(session, begin):
            bar = distil_shown.progress(view, rounds, job.limit)
            if view.step is not None and not view.round and view.state is State.RUNNING:
                bar = inspect_shown.progress(view, job.limit)
            yield await self._later(session, job, view, bar)

    async def _later(self, session: str, job: Job, view: View, bar: str) -> tuple[Any, ...]:
        """Returns the values of the page's parts for a run that goes on from an inspected model."""
        if view.state is not State.DONE:
            told = _told(view)
            shown = gr.skip() if told == "" else told
            return bar, shown, gr.update(visible=False, value=None), summary(view)

        shown = await asyncio.to_thread(results, self.bench, session)
        packed = job.archive.is_file()
        words = "Download the copy (zip)" if job.work is PURIFY else "Download the student (zip)"
        file = gr.update(value=str(job.archive), label=words, visible=True) if packed else gr.skip()
        return bar, shown, file, summary(view)

    async def _run(self, session: str, begin: Callable[[], Job]) -> AsyncIterator[tuple[Job, View]]:
        """Begins a run and yields its states; a visitor who leaves ends it.

        Raises:
            gr.Error: the run cannot begin, or has failed.
        """
        try:
            job = await asyncio.to_thread(begin)
        except InputError as error:
            raise refusal(error) from error

        try:
            async for view in follow(self.queue, job):
                yield job, view
                if view.state is State.FAILED:
                    raise refusal(view.reason)
        finally:
            if not job.over:
                self.queue.leave(session)


def summary(view: View) -> dict[str, Any]:
    """Returns the numbers of a run for programs."""
    return {
        "state": view.state.value,
        "before": view.before,
        "seconds": round(view.seconds, 1),
        "reason": view.reason,
        "round": view.round,
        "step": None if view.step is None else [view.step.name, view.step.done, view.step.total],
    }


def _report(inspected: Any) -> dict[str, Any]:
    report = inspect_shown.read_report(inspected.folder).to_json()
    return {"report": report, "model": inspected.shown["model"]}


def _told(view: View) -> str:
    return distil_shown.told("Not possible", view.reason, "fooled") if view.state is State.FAILED else ""


def _settings() -> list[Any]:
    with gr.Accordion("More settings", open=False), gr.Row():
        steps = gr.Number(
            USUAL_STEPS,
            label="Steps of the search",
            info=f"{LEAST_STEPS} to {MOST_STEPS}",
            precision=0,
            min_width=120,
            elem_id="inspect-steps",
        )
        seed = gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="inspect-seed")
        minutes = gr.Number(
            MOST_MINUTES,
            label="Minutes at most",
            info=f"up to {MOST_MINUTES:g}",
            min_width=120,
            elem_id="inspect-minutes",
        )
    return [steps, seed, minutes]


def _on(
    button: gr.Button, run: Any, inputs: list[Any], outputs: list[Any], name: str, description: str
) -> None:
    """Connects a button with a run; the runs have a line of their own."""
    button.click(
        run,
        inputs,
        outputs,
        api_name=name,
        api_description=description,
        concurrency_limit=None,
        concurrency_id=name,
        show_progress="hidden",
    )
