"""The tab "Distil": a short distillation on this server, watched live, to take home or to push."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import yaml
from PIL import Image

from abd_hub import InputError, RunRecord, catalog, push_to_hub, read_record
from abd_hub_app import distil_request
from abd_hub_app.distil_queue import ARCHIVE, CONFIG, DistilQueue, Job, State, View
from abd_hub_app.distil_request import DistilRequest, Source
from abd_hub_app.distil_shown import progress, result, told
from abd_hub_app.images import read_picture
from abd_hub_app.inputs import ModelFiles, TokenInput
from abd_hub_app.shelf import Shelf
from abd_hub_app.text import one_line, refusal

_LEAD = """\
<p class="abd-lead">Distil a teacher into a small student <b>without its training data</b>, with or without a
defence. One run at a time, in a process of its own; it ends with this page.</p>"""
_IDLE = '<p class="abd-status">Nothing is running. A run on a CPU takes minutes.</p>'
_HUB, _FILES, _FOLDER = "hub", "files", "folder"
_SHELF = "shelf:"
# Gradio has no setting for it on a password: the browser is not to keep the token either.
_NOT_REMEMBERED = """() => {
  const fields = document.querySelectorAll("#push-token input");
  fields.forEach((field) => field.setAttribute("autocomplete", "off"));
}"""
_LOOK_EVERY = 0.5
_SMALL = 16
"""Pixels a side up to which the smallest student and two shuffled layers are the first choice: above two, a
copy of a network of 8x8 images gives one class to everything."""
_PICTURES = ("training_images.png", "verdicts_*.png")
_MOST_PICTURES = 5
_Picture = tuple[Image.Image, str]


class Distil:
    """The tab's parts and what happens between them."""

    def __init__(self, shelf: Shelf, queue: DistilQueue, *, local: bool) -> None:
        self.shelf = shelf
        self.queue = queue
        self.local = local
        """Whether only this machine reaches the server: folders of it may be named then."""

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
        """Distil a teacher into a student, without data, and follow it.

        Args:
            teacher: "shelf:NAME" for a model shown here, "hub", "files" or "folder" for what the next says.
            hub_id: of a public repository, org/name or org/name@revision.
            files: config.json and model.safetensors.
            folder: on the server's own machine, where the server is open to that machine alone.
            method: registered name.
            defenses: registered names, none for a plain distillation.
            rounds: pseudo-batches.
            minutes: after which the run is ended, finished or not.
            seed: of every random draw.
            student: architecture.
            vaccine_check: use the shuffling vaccine only if its own check accepts it.
            vaccine_layers: how many of the teacher's last layers it shuffles.
            request: whose run this is.

        Returns:
            Again and again: progress as HTML, the result as HTML, pictures, the folder as zip, and a summary
            with the state, the rounds done, the figures of the log and in the end the record.
        """
        session = _session(request)
        try:
            asked = DistilRequest(
                method=method,
                defenses=tuple(defenses),
                rounds=_number(rounds),
                minutes=minutes,
                seed=_number(seed),
                student=student,
                vaccine_check=bool(vaccine_check),
                vaccine_layers=_number(vaccine_layers),
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
        """End the run that you have begun; whether there was one."""
        return self.queue.cancel(_session(request))

    def push(self, repo_id: str, private: bool, token: str, request: gr.Request) -> tuple[str, str]:
        """Push your finished run to the Hub with a token of your own, which is kept nowhere.

        Args:
            repo_id: org/name; the repository is made if there is none.
            private: make it private.
            token: of the Hub, with write access to the repository.
            request: whose run this is.

        Returns:
            An empty token, and what was done, or why not, as HTML.
        """
        run = self.queue.result(_session(request))
        if run is None:
            return "", told("Not pushed", "There is no finished run of yours; distil one first.", "fooled")
        if not token:
            return "", told("Not pushed", "token: it is empty; give one with write access.", "fooled")
        try:
            done = push_to_hub(run, repo_id.strip(), private=private, token=token)
        except InputError as error:
            # The folder's place on the server is no visitor's business.
            return "", told("Not pushed", str(error).replace(f"{run.parent}/", ""), "fooled")
        except Exception as error:  # whatever it says could quote the request, and the token with it
            return "", told("Not pushed", f"the push failed ({type(error).__name__}); try again", "fooled")
        return "", told("Pushed", f"{done.url} at commit {done.commit}", "steady")

    def leave(self, request: gr.Request) -> None:
        """The page was closed: the visitor's run and its results go."""
        self.queue.leave(_session(request))

    # -------------------------------------------------------------------------------------------- page

    def build(self) -> None:
        """Puts the tab on the page."""
        gr.HTML(_LEAD)
        with gr.Row(equal_height=False, elem_id="distil"):
            with gr.Column(min_width=0, elem_classes="abd-request"):
                inputs = self._inputs()
                with gr.Row():
                    start = gr.Button("Distil", variant="primary", elem_id="distil-start", min_width=120)
                    stop = gr.Button("Cancel", variant="stop", elem_id="distil-cancel", min_width=120)
            with gr.Column(min_width=0, elem_classes="abd-outcome"):
                shown = self._outputs()
                self._push_parts()
        start.click(
            self.distil,
            inputs,
            shown,
            api_name="distil",
            api_description=self.distil.__doc__,
            # the queue has its own line: a run must not stand in that of the others' predictions.
            concurrency_limit=None,
            concurrency_id="distil",
            show_progress="hidden",
        )
        ended = gr.Checkbox(visible=False)
        stop.click(
            self.cancel,
            None,
            ended,
            api_name="cancel",
            api_description=self.cancel.__doc__,
            concurrency_limit=None,
            concurrency_id="cancel",
            show_progress="hidden",
        )

    def _inputs(self) -> list[Any]:
        offered = self._teachers()
        teacher = gr.Dropdown(
            offered, value=offered[0][1], label="Teacher", info="safetensors only", elem_id="distil-teacher"
        )
        hub_id = gr.Textbox(
            label="Hub id",
            info="of a public repository",
            placeholder="org/name or org/name@revision",
            visible=False,
            max_length=200,
            elem_id="distil-hub",
        )
        files = ModelFiles(
            label=" and ".join(distil_request.FILES),
            file_count="multiple",
            height=160,
            visible=False,
            elem_id="distil-files",
        )
        folder = gr.Textbox(
            label="Folder",
            info="on this machine, with config.json and safetensors",
            visible=False,
            max_length=1000,
            elem_id="distil-folder",
        )
        fields = [hub_id, files, folder]
        teacher.input(
            _only_field, teacher, fields, api_visibility="private", show_progress="hidden", queue=False
        )
        return [teacher, *fields, *self._settings()]

    def _settings(self) -> list[Any]:
        height, width = self.shelf.size
        small = max(height, width) <= _SMALL
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
        defenses = gr.CheckboxGroup(
            [(name.replace("_", " "), name) for name in distil_request.defenses()],
            label="Defences",
            info="the paper's ABD is the vaccine with self-retrospection; the demo's, with the direction",
            elem_id="distil-defenses",
        )
        with gr.Row():
            rounds = gr.Number(
                100,
                label="Rounds",
                info=f"up to {distil_request.MOST_ROUNDS}",
                precision=0,
                min_width=120,
                elem_id="distil-rounds",
            )
            minutes = gr.Number(
                5,
                label="Minutes at most",
                info=f"up to {distil_request.MOST_MINUTES:g}",
                min_width=120,
                elem_id="distil-minutes",
            )
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="distil-seed")
                layers = gr.Number(
                    2 if small else 5,
                    label="Layers the vaccine shuffles",
                    precision=0,
                    min_width=120,
                    elem_id="distil-layers",
                )
            student = gr.Dropdown(
                [(_summary_of("students", name), name) for name in distil_request.students()],
                value="wrn_10_1" if small else "wrn_16_1",
                label="Student",
                elem_id="distil-student",
            )
            check = gr.Checkbox(
                False,
                label="Use the vaccine only if its own check accepts it (the paper's policy)",
                elem_id="distil-check",
            )
        return [method, defenses, rounds, minutes, seed, student, check, layers]

    def _outputs(self) -> list[Any]:
        status = gr.HTML(_IDLE, elem_id="distil-progress")
        verdict = gr.HTML("", elem_id="distil-result")
        download = gr.DownloadButton("Download the student (zip)", visible=False, elem_id="distil-download")
        pictures = gr.Gallery(
            label="What the student learned from, and its verdicts",
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

    def _push_parts(self) -> None:
        with gr.Accordion("Push it to the Hub", open=False, elem_id="distil-push"):
            gr.HTML(
                '<p class="abd-note">The token goes to this server for this one push, and is kept nowhere; '
                "use a fine-grained one for this repository alone, over https.</p>"
            )
            repo = gr.Textbox(label="Repository", placeholder="org/name", max_length=200, elem_id="push-repo")
            token = TokenInput(
                label="Token",
                type="password",
                max_length=500,
                elem_id="push-token",
            )
            private = gr.Checkbox(True, label="Private", elem_id="push-private")
            send = gr.Button("Push", elem_id="push-start")
            outcome = gr.HTML("", elem_id="push-outcome")
        token.focus(None, js=_NOT_REMEMBERED)
        send.click(
            self.push,
            [repo, private, token],
            [token, outcome],
            api_name="push",
            api_description=self.push.__doc__,
            concurrency_limit=2,
            concurrency_id="push",
            show_progress="minimal",
            show_progress_on=outcome,
        )

    def _teachers(self) -> list[tuple[str, str]]:
        first = distil_request.first_choice(self.shelf)
        models = sorted(self.shelf.models, key=lambda model: model is not first)
        shown = [
            (one_line(f"{model.name}: {self.shelf.kind(model)}", 90), _SHELF + model.name) for model in models
        ]
        elsewhere = [("A model from the Hub", _HUB), ("Files that I upload", _FILES)]
        return [*shown, *elsewhere, *([("A folder on this machine", _FOLDER)] if self.local else [])]

    # --------------------------------------------------------------------------------------------- run

    def _submit(
        self, session: str, asked: DistilRequest, teacher: str, hub_id: str, files: Sequence[str], folder: str
    ) -> Job:
        self.queue.check(session)
        place = self.queue.folder()
        try:
            source = self._source(teacher, hub_id, files, folder, place)
            settings = distil_request.configuration(asked, source, self.shelf, str(place / "student"))
            (place / CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")
            return self.queue.submit(session, place, 60 * asked.minutes)
        except BaseException:
            self.queue.discard(place)
            raise

    def _source(self, teacher: str, hub_id: str, files: Sequence[str], folder: str, place: Path) -> Source:
        if teacher.startswith(_SHELF):
            return distil_request.from_shelf(self.shelf, teacher.removeprefix(_SHELF))
        if teacher == _HUB:
            return distil_request.from_hub(hub_id)
        if teacher == _FILES:
            return distil_request.from_files(files, place / distil_request.UPLOADED)
        if teacher == _FOLDER and self.local:
            return distil_request.from_folder(folder)
        if teacher == _FOLDER:
            raise InputError(
                "folder: this server is open to others, so it reads no folders of its own; upload the files"
            )
        offered = ", ".join(value for _, value in self._teachers())
        raise InputError(f"teacher: {teacher[:80]!r} is not offered; use {offered}")

    async def _follow(self, job: Job, asked: DistilRequest) -> AsyncIterator[tuple[Any, ...]]:
        """What the page shows, again whenever it has changed, until the run is over."""
        before = None
        while True:
            view = await asyncio.to_thread(self.queue.look, job)
            now = (view.state, view.before, view.round, int(view.seconds), view.stopping)
            if job.over or view.state not in (State.WAITING, State.RUNNING):
                break
            if now != before:
                yield _under_way(view, job, asked, first=before is None)
                before = now
            await asyncio.sleep(_LOOK_EVERY)
        if view.state is State.DONE:
            yield await asyncio.to_thread(_finished, view, job, asked)
            return
        yield _without_result(view, job, asked)
        if view.state is State.FAILED:
            raise refusal(view.reason)


def _under_way(view: View, job: Job, asked: DistilRequest, *, first: bool) -> tuple[Any, ...]:
    shown = progress(view, asked.rounds, job.limit)
    cleared = ("", gr.update(value=None, visible=False), gr.update(value=None, visible=False))
    kept = cleared if first else (gr.skip(), gr.skip(), gr.skip())
    return shown, *kept, _summary(view, asked)


def _without_result(view: View, job: Job, asked: DistilRequest) -> tuple[Any, ...]:
    shown = progress(view, asked.rounds, job.limit)
    failed = view.state is State.FAILED
    words = told("Not possible", view.reason, "fooled") if failed else ""
    hidden = gr.update(value=None, visible=False)
    return shown, words, hidden, hidden, _summary(view, asked)


def _finished(view: View, job: Job, asked: DistilRequest) -> tuple[Any, ...]:
    record = read_record(job.run)
    return (
        progress(view, asked.rounds, job.limit),
        result(record),
        gr.update(value=_pictures(job.run), visible=True),
        gr.update(value=str(job.folder / ARCHIVE), visible=True),
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


def _only_field(teacher: str) -> list[Any]:
    """Of the three fields for a teacher from elsewhere, the one that is chosen."""
    return [gr.update(visible=teacher == name) for name in (_HUB, _FILES, _FOLDER)]


def _summary_of(kind: str, name: str) -> str:
    return next((entry.summary for entry in catalog(kind) if entry.name == name), "")


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _number(given: Any) -> Any:
    """A whole number as int; anything else as it is, for the check that refuses it."""
    return int(given) if isinstance(given, float) and given.is_integer() else given
