"""Shows a distillation on the page as HTML, with its progress, its curves and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from abd_hub import Finding, Rate, RunRecord, headline, verdict
from abd_hub_app.run_job import State, View
from abd_hub_app.text import as_html

_WIDTH, _HEIGHT = 300, 90
_NO_CURVES = (
    "round",
    "seconds",
    "learning_rate",
    "agreement_patches_by_chance",
    "agreement_unseen_by_chance",
)
_MOST_CURVES = 6
_TONES = {"warning": ("✗", "fooled"), "neutral": ("~", "open"), "good": ("✓", "steady")}
"""Holds mark and color for each level of a finding."""
_TITLES = {
    "accuracy": "Accuracy",
    "attack": "Attack",
    "agreement": "Agreement",
    "inspection": "Inspection",
    "untried": "Not tried",
}


def progress(view: View, rounds: int, limit: float) -> str:
    """Returns the status, a bar, and a curve for every logged figure.

    Args:
        view: state of the run.
        rounds: rounds of the whole run.
        limit: seconds that the run may take.
    """
    done = rounds if view.state is State.DONE else view.round
    bar = (
        '<div class="abd-progress" role="progressbar" aria-label="Rounds done" aria-valuemin="0" '
        f'aria-valuemax="{rounds}" aria-valuenow="{done}"><span style="width:{100 * done / rounds:.1f}%">'
        "</span></div>"
    )
    return f'<p class="abd-status">{_status(view, rounds, limit)}</p>{bar}{curves(view.rows)}'


def told(title: str, text: str, tone: str) -> str:
    """Returns a short card.

    Args:
        title: a few words of this page.
        text: may hold words of strangers.
        tone: open, steady or fooled.
    """
    return (
        f'<section class="abd-card abd-{tone}" role="status"><h3>{as_html(title)}</h3>'
        f"<p>{as_html(text, 400)}</p></section>"
    )


def curves(rows: Sequence[Mapping[str, float]]) -> str:
    """Returns a small drawing for each figure; nothing before there are two points."""
    if len(rows) < 2:
        return ""
    # Without a defense the penalty is always 0.
    candidates = [name for name in rows[-1] if name not in _NO_CURVES]
    names = [name for name in candidates if any(row.get(name) for row in rows)]
    return f'<div class="abd-curves">{"".join(_curve(name, rows) for name in names[:_MOST_CURVES])}</div>'


def result(record: RunRecord) -> str:
    """Returns the content of the record, with the library's verdict first."""
    found = verdict(record)
    if record.student_report is None:
        text = "The page has no test images for this teacher; the student's accuracy and ASR are unknown."
        found = (Finding("untried", "neutral", text), *[one for one in found if one.kind != "untried"])
    cards = "".join(_card(finding) for finding in found)
    head = f'<p class="abd-status"><b>{as_html(headline(found))}</b></p>'
    return f'{head}<div class="abd-cards">{cards}</div>{_measured(record)}{_facts(record)}'


def _card(finding: Finding) -> str:
    mark, tone = _TONES[finding.level]
    return (
        f'<section class="abd-card abd-{tone}"><h3>{_TITLES[finding.kind]}</h3>'
        f'<p class="abd-verdict"><span aria-hidden="true">{mark}</span> {as_html(finding.text, 400)}</p>'
        "</section>"
    )


def _status(view: View, rounds: int, limit: float) -> str:
    seconds = f"{view.seconds:.0f} s"
    words = not_running(view, f"<b>Done</b>: {_count(rounds, 'round')} in {seconds}.")
    if words:
        return words

    if view.stopping:
        return "<b>Stopping</b>: the present round is the last."
    if not view.round:
        return f"<b>Starting</b>, {seconds}: the teacher is loaded."
    if view.round >= rounds:
        return f"<b>Measuring</b>, {seconds}: all {rounds} rounds are done."

    left = (rounds - view.round) * view.rows[-1]["seconds"] / view.round
    enough = "" if view.seconds + left <= limit else f" That is more than the limit of {limit / 60:g} min."
    return f"<b>Round {view.round} of {rounds}</b>, {seconds}, about {left:.0f} s left.{enough}"


def not_running(view: View, done: str) -> str:
    """Returns the words for a run of any kind that waits or is over; "" for one that is carried out."""
    before = (
        f"{_count(view.before, 'run')} of other visitors before yours" if view.before else "yours is next"
    )
    words = {
        State.WAITING: f"<b>Waiting</b>: {before}.",
        State.DONE: done,
        State.CANCELLED: "<b>Cancelled</b>: nothing of the run is kept.",
        State.FAILED: "<b>Ended without a result.</b>",
    }
    return words.get(view.state, "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _curve(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    points = [(row["round"], row[name]) for row in rows if name in row]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    first, length = points[0][0], (points[-1][0] - points[0][0]) or 1.0
    span = (high - low) or 1.0
    path = " ".join(
        f"{_WIDTH * (x - first) / length:.1f},{4 + (_HEIGHT - 8) * (high - y) / span:.1f}" for x, y in points
    )

    title = as_html(name.replace("_", " "))
    spoken = f"{title}: {values[-1]:.3g} now, {low:.3g} to {high:.3g}"
    return (
        f'<figure><figcaption><b>{title}</b> {values[-1]:.3g} <span class="abd-note">{low:.3g} to {high:.3g}'
        f'</span></figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{spoken}"><polyline points="{path}"/></svg></figure>'
    )


def _measured(record: RunRecord) -> str:
    if record.teacher_report is None or record.student_report is None:
        return ""
    rows = []
    for name, report in (("teacher", record.teacher_report), ("student", record.student_report)):
        rows.append((f"accuracy of the {name}", _rate(report.accuracy)))
        rows += [
            (f"ASR of {attack.trigger} to class {attack.target}, {name}", _rate(attack.asr))
            for attack in report.triggers
        ]
    return _table("Measured on test images", rows)


def _facts(record: RunRecord) -> str:
    rows = [
        ("teacher", record.teacher.id.removeprefix("local-dir:")),
        ("student", record.student.architecture),
        ("method", record.method),
        ("rounds", str(record.rounds)),
        ("seed", str(record.seed)),
        ("distillation", f"{record.durations.get('distillation', 0):.0f} s"),
    ]
    if record.teacher.revision:
        rows.append(("commit of the teacher", record.teacher.revision))
    for defense in record.defenses:
        sentence = defense.sentence.removeprefix(f"{defense.name}: ")
        rows.append((defense.name.replace("_", " "), sentence))
    if not record.defenses:
        rows.append(("defense", "none"))
    return _table("The run", rows)


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{as_html(name)}</th><td>{as_html(value, 300)}</td></tr>' for name, value in rows
    )
    return f'<h3>{as_html(title)}</h3><table class="abd-facts"><tbody>{cells}</tbody></table>'


def _rate(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.n}"
