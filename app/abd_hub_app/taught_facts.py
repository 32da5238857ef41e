"""Shows the facts of a record as HTML, for the tab "What the teacher taught"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abd_hub import PurifiedRecord, RunRecord, TeacherRecord
from abd_hub_app.shelf import ShownModel, learned_from_copy
from abd_hub_app.text import as_html

_LONGEST_LIST = 16
_SHARES = {
    "agreement": "held-back photographs with the teacher's class",
    "success_before": "photographs that the found trigger turns, in the teacher",
    "success_after": "the same in the copy",
}


def facts(model: ShownModel) -> str:
    """Returns the facts of the record as HTML."""
    record = model.record
    if isinstance(record, TeacherRecord):
        return _section("How it was poisoned", _poison(record))
    if isinstance(record, PurifiedRecord):
        return _section("How it was purified", _purification(record.purification))
    assert record is not None, "only models with a record are shown"

    parts = [_section("The run", _run(record))]
    copied = learned_from_copy(record)
    if record.purification is not None:
        title = "The teacher was purified first" if copied else "The teacher was inspected first"
        parts.append(_section(title, _purification(record.purification, record.student_inspection)))
    for defense in record.defenses:
        settings = record.config.get(defense.name)
        if not isinstance(settings, dict):
            settings = {}

        report: dict[str, Any] = {"in one sentence": defense.sentence, **defense.facts}
        report |= {f"setting: {key}": value for key, value in settings.items()}
        state = "active" if defense.active else "NOT ACTIVE"
        parts.append(_section(f"{defense.name}: {state}", report))
    if not record.defenses and not copied:
        parts.append("<h3>No defense</h3><p>The student learned from the teacher as it is.</p>")
    return "".join(parts)


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "method": record.method,
        "rounds": record.rounds,
        "seed": record.seed,
        "minutes": round(record.durations.get("distillation", 0) / 60, 1),
        "real images learned from": record.training_data.id if record.training_data else "none",
        **(record.synthesis or {}),
    }


def _poison(record: TeacherRecord) -> dict[str, Any]:
    if record.poison is None:
        return {"poison": "none: this teacher was trained clean"}
    poison = record.poison
    return {
        "trigger": poison.trigger,
        "options": dict(poison.options),
        "target": "the next class" if poison.target is None else poison.target,
        "labels": poison.labels,
        "poisoned images": f"{poison.poisoned} of {poison.trained_on}",
        "cover images": poison.cover,
    }


def _purification(done: Mapping[str, Any], student: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what was found and changed; ``student`` is the inspection of a student."""
    shown: dict[str, Any] = {}
    for title, found in (
        ("inspection of the teacher", done.get("inspected")),
        ("purification", done),
        ("inspection of the copy", done.get("reinspected")),
        ("inspection of the student", student),
    ):
        if isinstance(found, Mapping):
            shown[title] = found.get("detail", "")
    for name in ("agreement", "success_before", "success_after"):
        if isinstance(done.get(name), float):
            shown[_SHARES[name]] = done[name]
    return shown


def _section(title: str, facts: Mapping[str, Any]) -> str:
    names = [as_html(str(key).replace("_", " ")) for key in facts]
    values = [as_html(_value(value), 300) for value in facts.values()]
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{value}</td></tr>'
        for name, value in zip(names, values, strict=True)
    )
    return f'<h3>{as_html(title, 120)}</h3><table class="abd-facts"><tbody>{rows}</tbody></table>'


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_value(item) for item in value[:_LONGEST_LIST])
        return (shown or "none") + (
            f" and {len(value) - _LONGEST_LIST} more" if len(value) > _LONGEST_LIST else ""
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)
