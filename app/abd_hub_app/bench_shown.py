"""Shows as HTML what followed from an inspected model, and all of these models side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from PIL import Image

from abd_hub import headline, read_record, verdict
from abd_hub_app import distil_shown
from abd_hub_app.answers import Answers, show
from abd_hub_app.bench import KINDS, PLAIN, PROTECTED, Bench, Beside, Inspected
from abd_hub_app.images import to_pixels
from abd_hub_app.inspect_case import OUTCOME
from abd_hub_app.inspect_shown import read_report
from abd_hub_app.run_job import PURIFY, Job
from abd_hub_app.text import as_html

_TITLES = {PURIFY.name: "Purified copy", PROTECTED: "Protected student", PLAIN: "Plain student"}


def results(bench: Bench, session: str) -> str:
    """Returns a card for each run that went on from the visitor's inspected model, and the models beside."""
    cards = []
    for slot in KINDS:
        job = bench.queue.result(session, slot)
        if job is not None:
            cards.append(_purified(job) if slot == PURIFY.name else _student(job))
    inspected = bench.inspected(session)
    beside = bench.beside(session)
    shown = side_by_side(inspected, beside) if inspected is not None and len(beside) > 1 else ""
    return "".join(cards) + shown


def side_by_side(inspected: Inspected, models: Sequence[Beside]) -> str:
    """Returns a table of the models' answers to all shown images, and a card for each with one image."""
    labels = read_report(inspected.folder).labels
    label = inspected.shown["label"]
    count = len(models[0].rows)
    if not count or label is None:
        return ""

    head = "".join(f'<th scope="col">image {number + 1}</th>' for number in range(count))
    rows = "".join(_row(model, labels) for model in models)
    return (
        '<h3>Side by side</h3><p class="abd-note">The answers without and with the recovered trigger, and '
        "how many images of other classes it moves. One trigger says nothing about others.</p>"
        '<div class="abd-scroll" tabindex="0" role="region" aria-label="Answers of all models">'
        '<table class="abd-facts abd-beside"><thead><tr><th scope="col">model</th><th scope="col">moved</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"{_cards(inspected, models, labels, label)}"
    )


def _purified(job: Job) -> str:
    outcome = json.loads((job.folder / OUTCOME).read_text(encoding="utf-8"))
    changed = outcome["report"]["changed"]
    title = _TITLES[PURIFY.name] if changed else "No copy was made"
    lines = "".join(f"<p>{as_html(line, 400)}</p>" for line in outcome["lines"])
    return f'<section class="abd-card abd-open" role="status"><h3>{title}</h3>{lines}</section>'


def _student(job: Job) -> str:
    record = read_record(job.run)
    found = verdict(record)
    tone = "fooled" if any(one.level == "warning" for one in found) else "open"
    return (
        f'<section class="abd-card abd-{tone}" role="status"><h3>{_TITLES[job.slot]}</h3>'
        f"<p>{as_html(headline(found), 400)}</p>"
        f"<details><summary>The whole verdict</summary>{distil_shown.result(record)}</details></section>"
    )


def _row(model: Beside, labels: Sequence[str]) -> str:
    cells = "".join(
        f"<td>{as_html(labels[answer.clean_class], 24)} → {as_html(labels[answer.triggered_class], 24)}</td>"
        for answer in model.rows
    )
    return (
        f'<tr><th scope="row"><b>{as_html(model.name)}</b><br>{as_html(model.kind)}</th>'
        f"<td>{model.moved} of {model.others}</td>{cells}</tr>"
    )


def _cards(inspected: Inspected, models: Sequence[Beside], labels: Sequence[str], label: int) -> str:
    """Returns the models' cards of the tab Try it, for the first image that moves the original."""
    moves = [number for number, row in enumerate(models[0].rows) if row.triggered_class == label]
    number = moves[0] if moves else 0
    clean, triggered = (
        to_pixels(Image.open(inspected.folder / f"{when}_{number}.png"))[0] for when in ("before", "after")
    )
    answers = Answers(
        clean=clean,
        triggered=triggered,
        trigger="recovered",
        options={},
        target=label,
        labels=tuple(labels),
        models=tuple(
            dataclasses.replace(model.rows[number], name=model.name, kind=model.kind) for model in models
        ),
    )
    return f"<h4>Image {number + 1}, in full</h4>{show(answers)}"
