"""Builds the tab "What the teacher taught" with the images, defenses and curves in a run's folder."""

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
    TeacherRecord,
    mark_image,
    read_evidence,
    save_curves,
    save_divergence,
)
from abd_hub_app.images import read_picture
from abd_hub_app.shelf import Shelf, ShownModel
from abd_hub_app.taught_facts import facts
from abd_hub_app.text import one_line, percent, refusal

_LEAD = """\
<p class="abd-lead">This tab shows the folder of a run. It has the images that the student learned from, the
findings of the defenses in them, the curves, and a report of each defense.</p>"""
_NONE = "<p>None of these folders has a record (metrics.json).</p>"
_MOST_PICTURES = 24
_MOST_OF_A_KIND = 12
"""Limits the suspicious images on the page, and the others."""
_LARGEST_LOG = 20_000_000
_LARGEST_FIGURE = 1e30
_IMAGES = "synthetic_images.png"
# These are drawn from log.jsonl and evidence.json, which is sharper than a copy.
_CURVES = "curves.png"
_OF_EVIDENCE = ("suspicious.png", "divergence.png", "training_images.png", _IMAGES)
_Captioned = list[tuple[Image.Image, str]]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Holds the tab's content for one run; a part is empty or None if the folder lacks it."""

    facts: str
    """Holds the facts as HTML."""
    note: str
    """Explains the marked images, as HTML."""
    marked: _Captioned
    histogram: Image.Image | None
    patterns: _Captioned
    rates: Image.Image | None
    """Holds the curves of accuracy and ASR."""
    losses: Image.Image | None
    """Holds all other curves."""
    pictures: _Captioned


class Taught:
    """Builds the tab and answers its endpoint."""

    def __init__(self, shelf: Shelf) -> None:
        self.models = {model.name: model for model in shelf.models if model.record is not None}

    def run(self, name: str) -> Shown:
        """Returns pictures and facts of one run.

        Args:
            name: name of the model on the page.
        """
        if name not in self.models:
            raise refusal(f"run: {name!r} is not shown here; use {', '.join(self.models)}")
        return show(self.models[name])

    def build(self) -> None:
        """Puts the tab on the page, with the last run first."""
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
        shown = self.run(name)
        pictures = (shown.histogram, shown.patterns, shown.rates, shown.losses, shown.pictures)
        parts = (shown.note, shown.marked, *pictures)
        return shown.facts, *(gr.update(value=part, visible=bool(part)) for part in parts)


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


def _image(shown: Image.Image | None, name: str, alt: str) -> gr.Image:
    return gr.Image(
        shown,
        show_label=False,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        visible=shown is not None,
        elem_id=name,
        alt_text=alt,
    )


def show(model: ShownModel) -> Shown:
    """Returns the content of a run's folder, without parts that are missing or cannot be read."""
    evidence = _evidence(model.folder)
    rows = _read_log(model.folder / "log.jsonl")
    unit = "epoch" if isinstance(model.record, TeacherRecord) else "round"
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
    """Returns an explanation of the divergence as HTML; empty without a divergence."""
    if evidence is None or evidence.divergence is None:
        return ""
    divergence = evidence.divergence
    suspicious, n = sum(divergence.suspicious), len(divergence.kl)
    below = sum(value < divergence.threshold for value in divergence.kl)
    used = "used in this run" if divergence.used else "<strong>not used in this run</strong>"
    marks = (
        "Suspicious images have an orange frame with black edges and a warning sign."
        if divergence.warns
        else "None is marked, because no check has shown that these copies tell triggers apart."
    )
    source = "the vaccine check" if divergence.judged else "these images, as there was no check"

    return (
        "<h3>Images that the shuffling vaccine finds suspicious</h3>"
        f"<p>{suspicious} of {n} images from the last rounds ({percent(suspicious / n)}) are suspicious. "
        "Copies of the teacher with shuffled channels still give these images its class. A trigger survives "
        f"the shuffle more easily than the meaning of an image. {marks} "
        "The number under each image is its divergence, "
        f"KL(teacher || copies) in nats. The threshold of {divergence.threshold:.3g} comes from {source}; "
        f"it is mean - 3 std of the logarithm. {below} lie below it and {n - below} above. "
        f"The copies (draw {divergence.draw + 1}) were {used}.</p>"
    )


def marked(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """Returns suspicious images by divergence, smallest first, then others as drawn, with exact pixels."""
    if evidence is None or evidence.divergence is None or evidence.images is None:
        return []

    divergence, layout = evidence.divergence, evidence.images
    try:
        sheet = read_picture(folder / "samples" / _IMAGES)
    except InputError:
        return []
    rows = math.ceil(layout.count / layout.columns)
    if sheet.size != (layout.columns * layout.width, rows * layout.height):
        return []

    every = range(layout.count)
    bad = sorted((place for place in every if divergence.suspicious[place]), key=divergence.kl.__getitem__)
    others = [place for place in every if not divergence.suspicious[place]]

    shown = [(", suspicious", bad), ("", others)]
    return [
        (_tile(sheet, evidence, place), f"{_nats(divergence.kl[place])}{says}")
        for says, places in shown
        for place in places[:_MOST_OF_A_KIND]
    ]


def _tile(sheet: Image.Image, evidence: RunEvidence, place: int) -> Image.Image:
    layout, divergence = evidence.images, evidence.divergence
    assert layout is not None and divergence is not None, "the caller has checked them"
    left, top = place % layout.columns * layout.width, place // layout.columns * layout.height
    tile = sheet.crop((left, top, left + layout.width, top + layout.height))
    return mark_image(tile, divergence.warns and divergence.suspicious[place], f"{divergence.kl[place]:.2g}")


def _nats(value: float) -> str:
    return f"divergence {value:.3g} nats"


def histogram(evidence: RunEvidence | None) -> Image.Image | None:
    """Draws the divergence of all judged images from the numbers."""
    if evidence is None or evidence.divergence is None:
        return None
    divergence = evidence.divergence
    return _drawn(lambda file: save_divergence(divergence, file))


def patterns(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """Returns perturbations and directions with their scale, each pixel as a square."""
    captioned = []
    for pattern in evidence.patterns if evidence else ():
        try:
            picture = read_picture(folder / "samples" / f"pattern_{pattern.defense}.png")
        except InputError:
            continue
        what = pattern.defense.replace("_", " ")
        scale = (
            f"gray 0, white +{pattern.largest:.3g}, black -{pattern.largest:.3g} of a pixel's range 0 to 1"
        )
        captioned.append((picture, f"{one_line(what)}: {scale}; L2 norm {pattern.norm:.3g}"))
    return captioned


def _drawn(draw: Callable[[Path], None]) -> Image.Image | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.png"
        try:
            draw(file)
        except ValueError:  # nothing to draw
            return None
        return read_picture(file)


def pictures(folder: Path, evidence: RunEvidence | None) -> _Captioned:
    """Returns at most 24 other PNG files of ``samples`` that can be read, with exact pixels."""
    shown = {f"pattern_{pattern.defense}.png" for pattern in evidence.patterns} if evidence else set()
    if evidence is not None and evidence.divergence is not None:
        shown |= set(_OF_EVIDENCE)
    if (folder / "log.jsonl").is_file():
        shown.add(_CURVES)

    files = [file for file in sorted((folder / "samples").glob("*.png")) if file.name not in shown]

    captioned = []
    for file in files[:_MOST_PICTURES]:
        try:
            captioned.append((read_picture(file), one_line(file.stem.replace("_", " "))))
        except InputError:
            continue  # the rest of a stranger's folder is still worth showing
    return captioned


def curves(
    rows: Sequence[Mapping[str, float]], unit: str, wanted: Callable[[str], bool]
) -> Image.Image | None:
    """Draws the figures whose names are ``wanted``; returns None if there are none."""
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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_FIGURE


def _is_name(key: str) -> bool:
    # The drawing library would read other characters as formulas.
    return key.isascii() and key.replace("_", "").isalnum() and len(key) <= 40
