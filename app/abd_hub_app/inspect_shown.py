"""Shows an inspection on the page as HTML: the verdict, the triggers, and the statistic of every class."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abd_hub import InspectionReport
from abd_hub_app.answers import ModelAnswer
from abd_hub_app.bench import Inspected
from abd_hub_app.distil_shown import not_running
from abd_hub_app.inspect_case import ANSWERS, REPORT, read_answers
from abd_hub_app.run_job import State, View
from abd_hub_app.text import as_html, percent

MOST_BARS = 50
"""Limits the bars of one statistic; the smallest come first."""
_REACHED = 0.85
"""Sets the longest bar of a class that was reached, as a share of the bars of those that were not."""
_WORDS = {"examples": "example images of this page", "photographs": "squares of two photographs"}


def progress(view: View, limit: float) -> str:
    """Returns the status of an inspection or a purification, and a bar.

    Args:
        view: state of the run.
        limit: seconds that the run may take.
    """
    step = view.step
    done, total = (step.done, step.total) if step else (0, 1)
    if view.state is State.DONE:
        done = total
    bar = (
        '<div class="abd-progress" role="progressbar" aria-label="Steps done" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{done}"><span style="width:{100 * done / total:.1f}%">'
        "</span></div>"
    )
    return f'<p class="abd-status" role="status">{_status(view, limit)}</p>{bar}'


def _status(view: View, limit: float) -> str:
    seconds = f"{view.seconds:.0f} s"
    words = not_running(view, f"<b>Done</b> in {seconds}.")
    if words:
        return words
    if view.stopping:
        return "<b>Stopping</b>."

    step = view.step
    if step is None:
        return f"<b>Starting</b>, {seconds}: the model is loaded."
    name = as_html(step.name.capitalize())
    if step.done >= step.total:
        return f"<b>{name}</b>: all {step.total} steps, {seconds}."
    left = step.seconds * (step.total - step.done) / step.done if step.done else limit
    about = f", at most {left:.0f} s left of this search" if step.done else ""
    return f"<b>{name}</b>: step {step.done} of {step.total}, {seconds}{about}."


def result(inspected: Inspected) -> str:
    """Returns the verdict, the triggers on images, and the bars."""
    folder, facts = inspected.folder, inspected.shown
    report = read_report(folder)
    rows, moved, others = read_answers(folder / ANSWERS)
    return (
        f"{_verdict(report, facts, beforehand=inspected.beforehand)}"
        f"{_triggers(report, facts, folder)}"
        f"{_images(report, facts, folder, rows, (moved, others))}"
        f"{_bars(report)}"
    )


def read_report(folder: Path) -> InspectionReport:
    """Returns the report of an inspection, whose triggers have no tensors."""
    return InspectionReport.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))


def _verdict(report: InspectionReport, facts: Mapping[str, Any], *, beforehand: bool) -> str:
    mark, tone = ("✗", "fooled") if report.flagged else ("~", "open")
    model = facts["model"]
    size = "x".join(map(str, model["size"][1:]))
    named = as_html(model["id"])
    weights = f", weights {as_html((model['sha256'] or '')[:12])}" if model["sha256"] else ""
    when = (
        f"This inspection was made beforehand and comes with the page; it took {report.seconds:.0f} s. "
        "<b>Inspect</b> makes it anew."
        if beforehand
        else f"The inspection took {report.seconds:.0f} s, {facts['settings']['steps']} steps at most, "
        f"seed {facts['settings']['seed']}."
    )
    suspects = ", ".join(f"class {label} ({as_html(report.labels[label])})" for label in report.suspects)
    word = "Suspects" if len(report.suspects) > 1 else "Suspect"
    return (
        f'<section class="abd-card abd-{tone}" role="status"><h3>{named}</h3>'
        f'<p class="abd-verdict"><span aria-hidden="true">{mark}</span> {as_html(_sentence(report), 400)}</p>'
        f"<p><b>{word}</b>: {suspects or 'none'}</p>"
        f'<p class="abd-note">{as_html(model["architecture"])}, {len(report.labels)} classes, {size} pixels'
        f"{weights}. {when}</p></section>"
    )


def _sentence(report: InspectionReport) -> str:
    """Returns the library's sentence with a capital and a full stop."""
    return f"{report.detail[:1].upper()}{report.detail[1:].rstrip('.')}."


def _triggers(report: InspectionReport, facts: Mapping[str, Any], folder: Path) -> str:
    shown = [(place, report.triggers[place]) for place in facts["triggers"]]
    if not shown:
        return ""
    figures = []
    for place, trigger in shown:
        label = f"class {trigger.label} ({as_html(report.labels[trigger.label])})"
        ordinary = (
            "" if math.isinf(trigger.ordinary_size) else f"; the next class needs {trigger.ordinary_size:.3g}"
        )
        alt = f"The smallest {as_html(trigger.family)} trigger towards {label}, enlarged"
        figures.append(
            f'<figure><div class="abd-pair">{_picture(folder / f"trigger_{place}.png", alt)}'
            f"{_picture(folder / f'amount_{place}.png', 'Where it acts, white for most')}</div>"
            f"<figcaption><b>{as_html(trigger.family)}</b> towards {label}: size {trigger.size:.3g}"
            f"{ordinary}. It turns {percent(trigger.success)} of the images of other classes into it."
            "</figcaption></figure>"
        )
    found = "The trigger that was recovered" if report.flagged else "The smallest triggers that were found"
    return (
        f"<h3>{found}</h3><p class='abd-note'>Left: the trigger on gray. Right: where it acts.</p>"
        f'<div class="abd-found">{"".join(figures)}</div>'
    )


def _images(
    report: InspectionReport,
    facts: Mapping[str, Any],
    folder: Path,
    rows: Sequence[ModelAnswer],
    moved: tuple[int, int],
) -> str:
    if not rows:
        return ""
    figures = []
    for number, answer in enumerate(rows):
        before, after = _answer(report, answer.clean), _answer(report, answer.triggered)
        figures.append(
            f'<figure><div class="abd-pair">{_picture(folder / f"before_{number}.png", "The image")}'
            f"{_picture(folder / f'after_{number}.png', 'The image with the trigger')}</div>"
            f"<figcaption>{before}<br><b>with trigger</b>: {after}</figcaption></figure>"
        )
    of = _WORDS[facts["images_of"]]
    return (
        f"<h3>On {len(rows)} images</h3>"
        f'<p class="abd-note">The answers of the model without and with this trigger. It moves {moved[0]} of '
        f"{moved[1]} {of} to its class.</p>"
        f'<div class="abd-found">{"".join(figures)}</div>'
    )


def _answer(report: InspectionReport, shares: Sequence[float]) -> str:
    best = max(range(len(shares)), key=shares.__getitem__)
    return f"{as_html(report.labels[best])} ({percent(shares[best])})"


def _bars(report: InspectionReport) -> str:
    """Returns the bars of each statistic; that which decides most clearly is open."""
    names = sorted(report.statistics, key=lambda name: report.scores[name] / report.threshold[name])
    parts = []
    for place, name in enumerate(names):
        opened = " open" if place == 0 else ""
        parts.append(
            f"<details{opened}><summary><b>{as_html(name)}</b>: {_score(report, name)}</summary>"
            f"{_chart(report, name)}</details>"
        )
    return (
        '<h3>Every class</h3><p class="abd-note">The size of the smallest trigger towards each class. A '
        "class whose bar ends before the dashed limit stands out.</p>"
        f'<div class="abd-statistics">{"".join(parts)}</div>'
    )


def _score(report: InspectionReport, name: str) -> str:
    score, limit = report.scores[name], report.threshold[name]
    return f"smallest divided by next {score:.2f}, flagged below {limit:.2g}"


def _chart(report: InspectionReport, name: str) -> str:
    sizes = report.statistics[name]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    finite = [size for size in sizes if math.isfinite(size)]
    if not finite:
        return '<p class="abd-note">No trigger reached any class.</p>'

    # Classes that no trigger reached have the longest bars.
    scale = max(finite) / (_REACHED if len(finite) < len(sizes) else 1.0) or 1.0
    second = sizes[order[1]] if len(order) > 1 else math.inf
    limit = min(1.0, report.threshold[name] * second / scale)
    rows = "".join(_bar(report, label, sizes[label], scale) for label in order[:MOST_BARS])
    more = len(order) - MOST_BARS
    rest = f'<p class="abd-note">{more} further classes have larger triggers.</p>' if more > 0 else ""
    return f'<div class="abd-sizes" style="--abd-limit:{limit:.4f}">{rows}</div>{rest}'


def _bar(report: InspectionReport, label: int, size: float, scale: float) -> str:
    reached = math.isfinite(size)
    share = size / scale if reached else 1.0
    words = f"{size:.3g}" if reached else "not reached"
    suspect = label in report.suspects
    kind = "triggered" if suspect else "clean" if reached else "unreached"
    mark = ' <span class="abd-target">suspect</span>' if suspect else ""
    name = as_html(report.labels[label], 40)
    shown = name if name == str(label) else f"{label} {name}"
    return (
        f'<div class="abd-size"><span class="abd-class" title="{name}">{shown}{mark}</span>'
        f'<span class="abd-track"><span class="abd-fill abd-{kind}" style="width:{100 * share:.1f}%"></span>'
        f'</span><span class="abd-number">{words}</span></div>'
    )


def _picture(file: Path, alt: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{alt}">'
