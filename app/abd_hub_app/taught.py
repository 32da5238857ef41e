"""The tab "What the teacher taught": pictures, curves and the defences' own words of one run."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import InputError, RunRecord, TeacherRecord, save_curves
from abd_hub_app.images import read_picture
from abd_hub_app.shelf import Shelf, ShownModel
from abd_hub_app.text import as_html, one_line, refusal

_LEAD = """\
<p class="abd-lead">What a run left in its folder: the images the student learned from, its verdicts, its
curves, and what each defence says it did.</p>"""
_NONE = "<p>None of these folders has a record (metrics.json).</p>"
_MOST_PICTURES = 24
_LARGEST_LOG = 20_000_000
_LONGEST_LIST = 16
# Drawn from log.jsonl instead: the same curves, sharper than a copy.
_CURVES = "curves.png"
_Shown = tuple[str, list[tuple[Image.Image, str]], Image.Image | None]


class Taught:
    """The tab's parts."""

    def __init__(self, shelf: Shelf) -> None:
        self.models = {model.name: model for model in shelf.models if model.record is not None}

    def run(self, name: str) -> _Shown:
        """Pictures and facts of one run.

        Args:
            name: of the model, as the page shows it.

        Returns:
            Facts as HTML, pictures with captions, the training curves.
        """
        if name not in self.models:
            raise refusal(f"run: {name!r} is not shown here; use {', '.join(self.models)}")
        model = self.models[name]
        return facts(model), pictures(model.folder), curves(model)

    def build(self) -> None:
        """Puts the tab on the page; the last run given is shown first."""
        if not self.models:
            gr.HTML(_NONE)
            return
        gr.HTML(_LEAD)
        names = list(self.models)
        told, shown, drawn = self.run(names[-1])
        run = gr.Radio(
            [(one_line(name), name) for name in names], value=names[-1], label="Run", elem_id="run"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                words = gr.HTML(told, elem_id="facts")
            with gr.Column(scale=1, min_width=320):
                gr.HTML("<h3>Pictures and training curves</h3>")
                gallery = gr.Gallery(
                    shown,
                    show_label=False,
                    format="png",
                    columns=1,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="pictures",
                )
                curve = gr.Image(
                    drawn,
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                    visible=drawn is not None,
                    elem_id="curves",
                    alt_text="Every logged figure over the rounds of the run",
                )
        run.change(
            self._update,
            run,
            [words, gallery, curve],
            api_name="run",
            concurrency_limit=1,
            concurrency_id="model",
        )

    def _update(self, name: str) -> tuple[Any, ...]:
        told, shown, drawn = self.run(name)
        return told, shown, gr.update(value=drawn, visible=drawn is not None)


def facts(model: ShownModel) -> str:
    """What the record says of the run, as HTML."""
    record = model.record
    if isinstance(record, TeacherRecord):
        return _section("How it was poisoned", _poison(record))
    assert record is not None, "only models with a record are shown"
    parts = [_section("The run", _run(record))]
    for defense in record.defenses:
        settings = record.config.get(defense.name)
        told: dict[str, Any] = {"in one sentence": defense.sentence, **defense.facts}
        asked = (
            {f"setting: {key}": value for key, value in settings.items()}
            if isinstance(settings, dict)
            else {}
        )
        state = "active" if defense.active else "NOT ACTIVE"
        parts.append(_section(f"{defense.name}: {state}", told | asked))
    if not record.defenses:
        parts.append("<h3>No defence</h3><p>The student learned from the teacher as it is.</p>")
    return "".join(parts)


def pictures(folder: Path) -> list[tuple[Image.Image, str]]:
    """The PNG files of ``samples``, at most 24, without those that cannot be read; exact pixels."""
    found = []
    for file in sorted((folder / "samples").glob("*.png"))[:_MOST_PICTURES]:
        try:
            if file.name != _CURVES or not (folder / "log.jsonl").is_file():
                found.append((read_picture(file), one_line(file.stem.replace("_", " "))))
        except InputError:
            continue  # of a stranger's folder the rest is still worth showing
    return found


def curves(model: ShownModel) -> Image.Image | None:
    """The curves of log.jsonl; None where there are none."""
    rows = _read_log(model.folder / "log.jsonl")
    if not rows:
        return None
    unit = "epoch" if isinstance(model.record, TeacherRecord) else "pseudo-batch"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _CURVES
        try:
            save_curves(rows, file, unit)
        except ValueError:  # no figure to draw
            return None
        return read_picture(file)


def _read_log(file: Path) -> list[dict[str, float]]:
    if not file.is_file() or file.stat().st_size > _LARGEST_LOG:
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _is_figure(row.get("round")):
            rows.append({key: value for key, value in row.items() if _is_name(key) and _is_figure(value)})
    return rows


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_name(key: str) -> bool:
    # What else a name may hold, the drawing library takes for formulas.
    return key.isascii() and key.replace("_", "").isalnum() and len(key) <= 40


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


def _section(title: str, told: Mapping[str, Any]) -> str:
    names = [as_html(str(key).replace("_", " ")) for key in told]
    values = [as_html(_value(value), 300) for value in told.values()]
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
