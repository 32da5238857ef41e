"""``abd-hub inspect``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abd_hub.commands.output import show, speaks
from abd_hub.core.inspections import REPORT_FILE

if TYPE_CHECKING:
    from abd_hub.core.inspections import InspectionReport


def inspect(arguments: Sequence[str]) -> int:
    """Examines a classifier for a backdoor, and prints the report."""
    from abd_hub.config.inspecting import parse_inspect

    request = parse_inspect(arguments)
    if request.output_dir is not None:
        _check_output(Path(request.output_dir))
    from accelerate import Accelerator

    from abd_hub.evaluation.measurement import load_model
    from abd_hub.runs.inspect import default_images, inspect_model, read_images, write_inspection

    classifier = load_model(request.model, "")
    device = Accelerator().device
    spec, settings = classifier.spec, request.inspection
    images = None if request.images is None else read_images(request.images, request.split, classifier)
    if images is None and settings.uses_images:
        images = default_images(spec, request.seed, device)
    report = inspect_model(classifier, images=images, inspection=settings, seed=request.seed, device=device)
    if not speaks():
        return 0

    show(report.to_json(), format_inspection(report, settings.unit), as_json=request.json)
    if request.output_dir is not None:
        for file in write_inspection(report, classifier, request.output_dir, images):
            print(f"wrote {request.output_dir}/{file}", file=sys.stderr)
    return 0


def _check_output(folder: Path) -> None:
    """Refuses a folder that holds something else; an earlier inspection is replaced."""
    from abd_hub.core.folder import check_file, check_folder

    if (folder / REPORT_FILE).is_file():
        check_file(folder / REPORT_FILE, "output_dir")
    else:
        check_folder(folder, existing="empty")


def format_inspection(report: InspectionReport, unit: str = "") -> str:
    """Returns the sizes of all classes as a table, the suspects first, and the finding below it.

    Args:
        report: of an inspection.
        unit: what its numbers measure.
    """
    from abd_hub.evaluation.tables import format_aligned

    first = next(iter(report.statistics.values()))
    rest = [
        label for label, size in enumerate(first) if label not in report.suspects and not math.isnan(size)
    ]
    rest.sort(key=first.__getitem__)
    head = ["class", "label", *report.statistics, ""]
    rows = [
        [
            str(label),
            report.labels[label],
            *cells(report, label),
            "suspect" if label in report.suspects else "",
        ]
        for label in (*report.suspects, *rest)
    ]
    scores = ["", "score", *_row(report.statistics, report.scores), ""]
    limits = ["", "flagged below", *_row(report.statistics, report.threshold), ""]
    lines = [format_aligned([head, *rows, scores, limits]), "", report.detail]
    return "\n".join([f"{unit}:", *lines] if unit else lines)


def cells(report: InspectionReport, label: int) -> list[str]:
    """Returns the numbers of one class; a dash where no trigger reached it."""
    numbers = [row[label] for row in report.statistics.values()]
    return ["-" if math.isinf(number) else f"{number:.3g}" for number in numbers]


def _row(families: Iterable[str], numbers: Mapping[str, float]) -> list[str]:
    return [f"{numbers[family]:.2g}" if family in numbers else "" for family in families]
