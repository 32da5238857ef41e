"""Keeps an inspected model of a visitor with the copies and students that follow from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from abd_hub import InputError
from abd_hub_app import distil_request, inspect_request
from abd_hub_app.answers import ModelAnswer
from abd_hub_app.checks import MOST_MINUTES
from abd_hub_app.distil_request import DistilRequest
from abd_hub_app.inspect_case import ANSWERS, SHOWN, read_answers
from abd_hub_app.inspect_request import InspectRequest
from abd_hub_app.run_child import CASE
from abd_hub_app.run_job import CONFIG, DISTILL, INSPECT, PURIFY, Job
from abd_hub_app.run_queue import RunQueue
from abd_hub_app.shelf import BUNDLED, Shelf
from abd_hub_app.sources import UPLOADED, Source, first_choice, from_shelf

BEFOREHAND = BUNDLED / "inspected"
"""Holds the inspection of the first bundled model, which the page shows at first."""
PLAIN, PROTECTED = "plain", "protected"
KINDS = {
    PURIFY.name: "copy, purified without data",
    PLAIN: "student, taught without any protection",
    PROTECTED: "student of a purified copy",
}
"""Says what each model is that follows from an inspected one, in the order on the page."""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """Names a finished inspection and its model."""

    folder: Path
    source: Source
    uploaded: Path | None = None
    """Holds the visitor's files, if the model is an upload."""
    beforehand: bool = False
    """Says whether the inspection comes with the page."""

    @property
    def shown(self) -> dict[str, Any]:
        """Returns the facts of the inspection."""
        facts: dict[str, Any] = json.loads((self.folder / SHOWN).read_text(encoding="utf-8"))
        return facts


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Holds a model's answers for the comparison side by side."""

    name: str
    kind: str
    rows: tuple[ModelAnswer, ...]
    """Holds the answers to each shown image."""
    moved: int
    """Counts the images of other classes that the recovered trigger turns into its class."""
    others: int
    """Counts the images of other classes."""


class Bench:
    """Starts inspections, and the runs that go on from an inspected model."""

    def __init__(self, shelf: Shelf, queue: RunQueue, pictures: Sequence[Image.Image]) -> None:
        """Creates the bench.

        Args:
            shelf: the models on the page.
            queue: carries out the runs.
            pictures: images for models with the labels of the shelf.
        """
        self.shelf = shelf
        self.queue = queue
        self.pictures = pictures
        self.beforehand: Inspected | None = None
        self._own = set[str]()
        """Holds the visitors who have inspected a model; nothing goes on from another one for them."""

    def inspected(self, session: str) -> Inspected | None:
        """Returns the visitor's last inspection, or the one that comes with the page."""
        job = self.queue.result(session, INSPECT.name)
        if job is None:
            return None if session in self._own else self.beforehand

        settings = json.loads((job.folder / CONFIG).read_text(encoding="utf-8"))
        labels = tuple(settings["labels"]) if settings["labels"] else None
        uploaded = job.folder / UPLOADED
        return Inspected(
            folder=job.run,
            source=Source(id=settings["id"], labels=labels),
            uploaded=uploaded if uploaded.is_dir() else None,
        )

    def inspect(self, session: str, asked: InspectRequest, source: Callable[[Path], Source]) -> Job:
        """Puts an inspection in the line; it replaces all that followed from an earlier one.

        Args:
            session: of the visitor.
            asked: the settings.
            source: returns the model, for the folder of the run.

        Raises:
            InputError: the model cannot be one, or there is no place in the line.
        """

        def prepare(place: Path) -> None:
            model = source(place)
            suits = model.labels == self.shelf.labels
            inspect_request.write_request(asked, model, self.pictures if suits else (), place)

        later = (PURIFY.name, PLAIN, PROTECTED)
        job = self._submit(session, prepare, 60 * asked.minutes, INSPECT, replaces=later)
        self._own.add(session)
        return job

    def leave(self, session: str) -> None:
        """Forgets a visitor who has closed the page."""
        self._own.discard(session)

    def purify(self, session: str, *, force: bool) -> Job:
        """Puts a purification of the inspected model in the line.

        Raises:
            InputError: no model was inspected, or there is no place in the line.
        """
        before = self._found(session)

        def prepare(place: Path) -> None:
            source, facts = _taken_over(before, place), before.shown
            settings = {
                "id": source.id,
                **facts["settings"],
                "sha256": facts["model"]["sha256"],
                "force": force,
            }
            (place / CONFIG).write_text(json.dumps(settings), encoding="utf-8")

        return self._submit(session, prepare, 60 * MOST_MINUTES, PURIFY)

    def distil(self, session: str, slot: str, rounds: int) -> Job:
        """Puts a distillation of the inspected model in the line.

        Args:
            session: of the visitor.
            slot: ``PLAIN``, or ``PROTECTED`` for a teacher that is purified first where it is flagged.
            rounds: of the distillation.

        Raises:
            InputError: no model was inspected, or there is no place in the line.
        """
        before = self._found(session)
        asked = self._request(before, rounds)

        def prepare(place: Path) -> None:
            source = _taken_over(before, place)
            purification = "auto" if slot == PROTECTED else "none"
            run = str(place / DISTILL.folder)
            settings = distil_request.configuration(asked, source, self.shelf, run, purification)
            (place / CONFIG).write_text(yaml.safe_dump(settings), encoding="utf-8")

        return self._submit(session, prepare, 60 * asked.minutes, DISTILL, slot=slot)

    def beside(self, session: str) -> list[Beside]:
        """Returns the answers of the inspected model and of all that followed from it."""
        before = self.inspected(session)
        if before is None:
            return []

        files = [("original", "the inspected model", before.folder / ANSWERS)]
        for slot, kind in KINDS.items():
            job = self.queue.result(session, slot)
            if job is not None:
                files.append(("purified" if slot == PURIFY.name else slot, kind, job.folder / ANSWERS))
        found = []
        for name, kind, file in files:
            # A model that was left alone by the purification has no copy.
            if file.is_file():
                rows, moved, others = read_answers(file)
                found.append(Beside(name=name, kind=kind, rows=rows, moved=moved, others=others))
        return found

    def _found(self, session: str) -> Inspected:
        before = self.inspected(session)
        if before is None:
            raise InputError("model: there is no inspection of yours; inspect a model first")
        return before

    def _request(self, before: Inspected, rounds: int) -> DistilRequest:
        height, width = before.shown["model"]["size"][1:]
        return DistilRequest(
            method=distil_request.methods()[0],
            defenses=(),
            rounds=rounds,
            minutes=MOST_MINUTES,
            seed=before.shown["settings"]["seed"],
            student=distil_request.usual_student((height, width)),
            vaccine_check=False,
            vaccine_layers=1,
        )

    def _submit(
        self, session: str, prepare: Callable[[Path], None], limit: float, *work: Any, **more: Any
    ) -> Job:
        self.queue.check(session)
        place = self.queue.folder()
        try:
            prepare(place)
            return self.queue.submit(session, place, limit, *work, **more)
        except FileNotFoundError as error:
            self.queue.discard(place)
            raise InputError("model: its inspection is no longer here; inspect it again") from error
        except BaseException:
            self.queue.discard(place)
            raise


def read_beforehand(shelf: Shelf) -> Inspected | None:
    """Returns the inspection that comes with the page; None if the first model has other weights."""
    if not (BEFOREHAND / SHOWN).is_file():
        return None
    model = first_choice(shelf)
    found = Inspected(folder=BEFOREHAND, source=from_shelf(shelf, model.name), beforehand=True)
    return found if found.shown["model"]["sha256"] == model.sha256 else None


def _taken_over(before: Inspected, place: Path) -> Source:
    """Takes the inspection over into the folder of a new run; returns the very model that was inspected."""
    shutil.copytree(before.folder, place / CASE)
    if before.uploaded is not None:
        shutil.copytree(before.uploaded, place / UPLOADED, copy_function=os.link)
        return Source(id=f"local-dir:{place / UPLOADED}", labels=before.source.labels)

    revision = before.shown["model"]["revision"]
    if revision is None:
        return before.source
    return Source(id=f"{before.source.id.partition('@')[0]}@{revision}", labels=before.source.labels)
