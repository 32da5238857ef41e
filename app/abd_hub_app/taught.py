"""The tab "What the teacher taught": what a run's folder shows of images, defenses and learning."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import (
    InputError,
    RunEvidence,
    RunRecord,
    TeacherRecord,
    mark_image,
    read_evidence,
    save_curves,
    save_divergence,
)
from abd_hub_app.images import read_picture
from abd_hub_app.shelf import Shelf, ShownModel
from abd_hub_app.text import as_html, one_line, percent, refusal

_LEAD = """\
<p class="abd-lead">What a run left in its folder: the images the student learned from, what its defenses
found in them, its curves, and what each defense says it did.</p>"""
_NONE = "<p>None of these folders has a record (metrics.json).</p>"
_MOST_PICTURES = 24
_MOST_OF_A_KIND = 12
"""Suspicious images shown, and others."""
_LARGEST_LOG = 20_000_000
_LONGEST_LIST = 16
_IMAGES = "synthetic_images.png"
# Drawn from log.jsonl and evidence.json instead: the same, sharper than a copy.
_CURVES = "curves.png"
_OF_EVIDENCE = ("suspicious.png", "divergence.png", "training_images.png", _IMAGES)
_Captioned = list[tuple[Image.Image, str]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the tab shows of one run; empty or None where the folder does not have it."""

    facts: str
    """HTML."""
    note: str
    """What can be seen in the marked images, HTML."""
    marked: _Captioned
    histogram: Image.Image | None
    patterns: _Captioned
    rates: Image.Image | None
    """Curves of accuracy and ASR."""
    losses: Image.Image | None
    """All other curves."""
    pictures: _Captioned


class Taught:
    """The tab's parts."""

    def __init__(self, shelf: Shelf) -> None:
        self.models = {model.name: model for model in shelf.models if model.record is not None}

    def run(self, name: str) -> Shown:
        """Pictures and facts of one run.

        Args:
            name: of the model, as the page shows it.
        """
        if name not in self.models:
            raise refusal(f"run: {name!r} is not shown here; use {', '.join(self.models)}")
        return show(self.models[name])

    def build(self) -> None:
        """Puts the tab on the page; the last run given is shown first."""
        if not self.models:
            gr.HTML(_NONE)
            return
        gr.HTML(_LEAD)
        names = list(self.models)
        first = self.run(names[-1])
        run = gr.Radio(
            [(one_line(name), name) for name in names], value=names[-1], label="Run", elem_id="run"
        )
        note = gr.HTML(first.note, visible=bool(first.note), elem_id="evidence")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                marked = _gallery(first.marked, "marked", 6)
            with gr.Column(scale=1, min_width=320):
                histogram = _image(
                    first.histogram, "histogram", "Histogram of the divergence with the vaccine's threshold"
                )
                patterns = _gallery(first.patterns, "patterns", 2)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                rates = _image(first.rates, "rates", "Accuracy and attack success rate over the rounds")
                losses = _image(first.losses, "curves", "Losses and other figures over the rounds")
                pictures = _gallery(first.pictures, "pictures", 1)
            with gr.Column(scale=1, min_width=320):
                words = gr.HTML(first.facts, elem_id="facts")
        run.change(
            self._update,
            run,
            [words, note, marked, histogram, patterns, rates, losses, pictures],
            api_name="run",
            concurrency_limit=1,
            concurrency_id="model",
        )

    def _update(self, name: str) -> tuple[Any, ...]:
        found = self.run(name)
        pictures = (found.histogram, found.patterns, found.rates, found.losses, found.pictures)
        parts = (found.note, found.marked, *pictures)
        return found.facts, *(gr.update(value=part, visible=bool(part)) for part in parts)


def _gallery(shown: _Captioned, name: str, columns: int) -> gr.Gallery:
    return gr.Gallery(
        shown,
        show_label=False,
        format="png",
        columns=columns,
        height="auto",
        object_fit="contain",
        interactive=False,
        buttons=["fullscreen"],
        visible=bool(shown),
        elem_id=name,
        elem_classes="abd-exact",
    )


def _image(shown: Image.Image | None, name: str, told: str) -> gr.Image:
    return gr.Image(
        shown,
        show_label=False,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        visible=shown is not None,
        elem_id=name,
        alt_text=told,
    )


def show(model: ShownModel) -> Shown:
    """What the folder of a run shows; what is missing, or a stranger has spoilt, is left out."""
    evidence = _evidence(model.folder)
    rows = _read_log(model.folder / "log.jsonl")
    unit = "epoch" if isinstance(model.record, TeacherRecord) else "pseudo-batch"
    return Shown(
        facts=facts(model),
        note=note(evidence),
        marked=marked(model.folder, evidence),
        histogram=histogram(evidence),
        patterns=patterns(model.folder, evidence),
        rates=curves(rows, unit, _is_rate),
        losses=curves(rows, unit, lambda name: not _is_rate(name)),
        pictures=pictures(model.folder, evidence),
    )


def _evidence(folder: Path) -> RunEvidence | None:
    try:
        return read_evidence(folder)
    except InputError:
        return None  # the rest of the folder is still worth showing


def note(evidence: RunEvidence | None) -> str:
    """What the divergence says, as HTML; empty without one."""
    if evidence is None or evidence.divergence is None:
        return ""
    found = evidence.divergence
    suspicious, n = sum(found.suspicious), len(found.kl)
    below = sum(value < found.threshold for value in found.kl)
    used = "used in this run" if found.used else "<strong>not used in this run</strong>"
    whose = "the vaccine check's" if found.judged else "that of these images, as there was no check"
    return (
        "<h3>What the shuffling vaccine sees</h3>"
        f"<p>{suspicious} of {n} images from the last rounds ({percent(suspicious / n)}) are suspicious: "
        "copies of the teacher whose channels are shuffled still give its class, which a trigger survives "
        "more easily than the meaning of an image does. They have an orange frame with black edges and a "
        "warning sign; under each image stands its divergence, KL(teacher || copies) in nats. The threshold, "
        f"{found.threshold:.3g}, is {whose}: mean - 3 std of the logarithm. {below} lie below it and "
        f"{n - below} above. The copies (draw {found.draw + 1}) were {used}.</p>"
    )


def marked(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """Suspicious images with the smallest divergence first, then others in the order drawn; exact pixels."""
    if evidence is None or evidence.divergence is None or evidence.images is None:
        return []
    found, layout = evidence.divergence, evidence.images
    try:
        sheet = read_picture(folder / "samples" / _IMAGES)
    except InputError:
        return []
    rows = math.ceil(layout.count / layout.columns)
    if sheet.size != (layout.columns * layout.width, rows * layout.height):
        return []
    places = range(layout.count)
    bad = sorted((place for place in places if found.suspicious[place]), key=found.kl.__getitem__)
    others = [place for place in places if not found.suspicious[place]]
    return [
        (_tile(sheet, evidence, place), f"{_nats(found.kl[place])}{_says(found.suspicious[place])}")
        for place in (*bad[:_MOST_OF_A_KIND], *others[:_MOST_OF_A_KIND])
    ]


def _tile(sheet: Image.Image, evidence: RunEvidence, place: int) -> Image.Image:
    layout, found = evidence.images, evidence.divergence
    assert layout is not None and found is not None, "the caller has looked"
    left, top = place % layout.columns * layout.width, place // layout.columns * layout.height
    tile = sheet.crop((left, top, left + layout.width, top + layout.height))
    return mark_image(tile, found.suspicious[place], f"{found.kl[place]:.2g}")


def _nats(value: float) -> str:
    return f"divergence {value:.3g} nats"


def _says(suspicious: bool) -> str:
    return ", suspicious" if suspicious else ""


def histogram(evidence: RunEvidence | None) -> Image.Image | None:
    """The divergence of all images that were judged, drawn from the numbers."""
    if evidence is None or evidence.divergence is None:
        return None
    found = evidence.divergence
    return _drawn(lambda file: save_divergence(found, file))


def patterns(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """Perturbations and directions, each pixel a square, with their scale."""
    found = []
    for pattern in evidence.patterns if evidence else ():
        try:
            picture = read_picture(folder / "samples" / f"pattern_{pattern.defense}.png")
        except InputError:
            continue
        what = pattern.defense.replace("_", " ")
        scale = (
            f"gray 0, white +{pattern.largest:.3g}, black -{pattern.largest:.3g} of a pixel's range 0 to 1"
        )
        found.append((picture, f"{one_line(what)}: {scale}; L2 norm {pattern.norm:.3g}"))
    return found


def _drawn(draw: Callable[[Path], None]) -> Image.Image | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.png"
        try:
            draw(file)
        except ValueError:  # nothing to draw
            return None
        return read_picture(file)


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
        parts.append("<h3>No defense</h3><p>The student learned from the teacher as it is.</p>")
    return "".join(parts)


def pictures(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """The other PNG files of ``samples``, at most 24, without those that cannot be read; exact pixels."""
    shown = {f"pattern_{pattern.defense}.png" for pattern in evidence.patterns} if evidence else set()
    if evidence is not None and evidence.divergence is not None:
        shown |= set(_OF_EVIDENCE)
    if (folder / "log.jsonl").is_file():
        shown.add(_CURVES)
    files = [file for file in sorted((folder / "samples").glob("*.png")) if file.name not in shown]
    found = []
    for file in files[:_MOST_PICTURES]:
        try:
            found.append((read_picture(file), one_line(file.stem.replace("_", " "))))
        except InputError:
            continue  # of a stranger's folder the rest is still worth showing
    return found


def curves(
    rows: Sequence[Mapping[str, float]], unit: str, wanted: Callable[[str], bool]
) -> Image.Image | None:
    """The curves of the figures whose names are wanted; None where there are none."""
    log = [{key: row[key] for key in row if key == "round" or wanted(key)} for row in rows]
    return _drawn(lambda file: save_curves(log, file, unit)) if log else None


def _is_rate(name: str) -> bool:
    return name == "accuracy" or name.startswith("asr_")


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
            rows[-1].pop("seconds", None)
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
