"""Builds the tab "Compare", with the accuracy and attack success rate of every model's record."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import EvalReport, Rate, save_accuracy_asr_panels
from abd_hub_app.images import read_picture
from abd_hub_app.shelf import Shelf
from abd_hub_app.text import one_line

_LEAD = """\
<p class="abd-lead"><b>Accuracy</b> is the share of the clean test images that a model reads rightly.
<b>ASR</b> (attack success rate) is the share of the triggered images of other classes that it reads as the
target. Each rate has its 95 % Wilson interval and the number of images. One attack says nothing about
others.</p>"""
_NONE = "<p>None of these folders has a record of a measurement (metrics.json with results).</p>"
_HEADERS = ["model", "accuracy", "interval", "n", "ASR", "ASR interval", "ASR n", "attack", "what it is"]
_WIDTHS = [110, 95, 150, 70, 80, 150, 85, 190, 320]
_FIELDS = ("value", "count", "n", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Holds one model under one attack; a model without any attack has one row without."""

    model: str
    kind: str
    accuracy: Rate
    trigger: str | None
    options: str | None
    """Holds the options as JSON."""
    target: int | None
    asr: Rate | None
    robust_accuracy: Rate | None
    control: Rate | None


def rows(shelf: Shelf) -> list[Row]:
    """Returns every measurement of every model, in their order."""
    all_rows = []
    for model in shelf.models:
        report = shelf.report(model)
        if report is not None:
            all_rows += _rows(model.name, shelf.kind(model), report)
    return all_rows


def as_csv(found: Sequence[Row]) -> str:
    """Returns a CSV file with one line for each row and every digit of the numbers."""
    text = io.StringIO()
    rates = ("accuracy", "asr", "robust_accuracy", "control")
    rate_columns = [f"{rate}_{field}" for rate in rates for field in _FIELDS]
    columns = ["model", "kind", "trigger", "options", "target", *rate_columns]

    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in found:
        line: dict[str, Any] = {
            "model": _harmless(row.model),
            "kind": _harmless(row.kind),
            "trigger": _harmless(row.trigger or ""),
            "options": row.options,
            "target": row.target,
        }
        for name in rates:
            rate = getattr(row, name)
            line |= {f"{name}_{field}": getattr(rate, field) for field in _FIELDS} if rate else {}
        writer.writerow(line)

    return text.getvalue()


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows as objects for JSON, each with its options as an object."""
    return [{**asdict(row), "options": json.loads(row.options) if row.options else None} for row in found]


def picture(found: Sequence[Row]) -> Image.Image | None:
    """Draws accuracy against ASR with intervals, one panel for each attack; None without an attack."""
    panels: dict[str, list[tuple[str, Rate, Rate]]] = {}
    for row in found:
        if row.asr is not None:
            panels.setdefault(_attack(row), []).append((row.model, row.accuracy, row.asr))
    if not panels:
        return None

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "accuracy_asr.png"
        save_accuracy_asr_panels(list(panels.items()), file)
        return read_picture(file)


class Compare:
    """Builds the tab and answers its endpoint."""

    def __init__(self, shelf: Shelf, files: Path) -> None:
        self.rows = rows(shelf)
        self.files = files
        """Names the folder of the files to download."""

    def compare(self) -> list[dict[str, Any]]:
        """Returns accuracy, ASR and their intervals for every model and attack, as in metrics.json."""
        return as_json(self.rows)

    def build(self) -> None:
        """Puts the tab on the page."""
        gr.api(self.compare, api_name="compare", queue=False)
        if not self.rows:
            gr.HTML(_NONE)
            return
        gr.HTML(_LEAD)
        self._table()
        self._scatter()
        self._downloads()

    def _table(self) -> None:
        gr.Dataframe(
            [_cells(row) for row in self.rows],
            headers=_HEADERS,
            datatype=["str", "str", "str", "number", "str", "str", "number", "str", "str"],
            column_widths=_WIDTHS,
            interactive=False,
            label="Measurements (click a heading to sort)",
            buttons=[],
            wrap=True,
            elem_id="comparison",
        )

    def _scatter(self) -> None:
        scatter = picture(self.rows)
        if scatter is None:
            return
        gr.HTML("<h3>Accuracy against ASR, with intervals; the top left is best</h3>")
        gr.Image(
            scatter,
            show_label=False,
            height=520,
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="scatter",
            alt_text="Accuracy against attack success rate; the table above holds the same numbers",
        )

    def _downloads(self) -> None:
        with gr.Row():
            for ending, content in (
                ("csv", as_csv(self.rows)),
                ("json", json.dumps(self.compare(), indent=2)),
            ):
                file = self.files / f"comparison.{ending}"
                file.write_text(content, encoding="utf-8")
                gr.DownloadButton(
                    f"Download as {ending.upper()}", value=str(file), elem_id=f"download-{ending}"
                )


def _rows(name: str, kind: str, report: EvalReport) -> list[Row]:
    plain = Row(
        model=name,
        kind=kind,
        accuracy=report.accuracy,
        trigger=None,
        options=None,
        target=None,
        asr=None,
        robust_accuracy=None,
        control=None,
    )
    attacked = [
        Row(
            model=name,
            kind=kind,
            accuracy=report.accuracy,
            trigger=measured.trigger,
            options=json.dumps(dict(measured.options), sort_keys=True),
            target=measured.target,
            asr=measured.asr,
            robust_accuracy=measured.robust_accuracy,
            control=measured.control,
        )
        for measured in report.triggers
    ]
    return attacked or [plain]


def _attack(row: Row) -> str:
    return f"{one_line(row.trigger or '')} to label {row.target}"


def _cells(row: Row) -> list[Any]:
    attack: tuple[Any, ...] = ("", "", None, "")
    if row.asr is not None:
        attack = (*_three(row.asr), _attack(row))
    return [one_line(row.model), *_three(row.accuracy), *attack, one_line(row.kind, 120)]


def _three(rate: Rate) -> tuple[str, str, int]:
    return f"{rate.value:.3f}", f"{rate.low:.3f} to {rate.high:.3f}", rate.n


def _harmless(text: str) -> str:
    """Quotes text that a spreadsheet would run as a formula because of its first sign."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
