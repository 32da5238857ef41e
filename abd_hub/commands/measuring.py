"""This module holds ``abd-hub evaluate`` and ``abd-hub compare``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abd_hub.commands.output import show, speaks

if TYPE_CHECKING:
    from abd_hub.config.measuring import EvaluateRequest
    from abd_hub.models.classifier import Classifier


def evaluate(arguments: Sequence[str]) -> int:
    """Measures one classifier and prints the report."""
    from abd_hub.config.measuring import EVERY, parse_evaluate

    request = parse_evaluate(arguments)
    from abd_hub.evaluation.measurement import load_measurement, load_model
    from abd_hub.evaluation.tables import format_reports

    if request.note and speaks():
        print(f"abd-hub: {request.note}", file=sys.stderr)
    classifier = load_model(request.model, "")
    if request.trigger == EVERY:
        return _try_all(request, classifier)
    measurement = load_measurement(request.options(classifier.spec.num_classes), classifier)
    assert measurement is not None, "parse_evaluate demands a data set"

    from accelerate import Accelerator

    report = measurement.report(classifier.to(Accelerator().device))
    if speaks():
        table = format_reports([(request.model.id, report)])
        show(dataclasses.asdict(report), table, as_json=request.json)
    return 0


def _try_all(request: EvaluateRequest, classifier: Classifier) -> int:
    """Tries every trigger with every target, and prints the worst first."""
    from accelerate import Accelerator

    from abd_hub.evaluation.battery import MOST_IMAGES, check_targets, try_all
    from abd_hub.evaluation.battery_table import format_battery
    from abd_hub.evaluation.measurement import load_control, load_measurement, spread

    targets = check_targets(request.targets, classifier.spec)
    control = load_control(request.control, classifier) if request.control else None
    measurement = load_measurement(request.evaluation, classifier)
    assert measurement is not None, "parse_evaluate demands a data set"
    images, labels = spread(measurement.data, request.evaluation.limit or MOST_IMAGES)

    device = Accelerator().device
    report = try_all(
        classifier.to(device),
        images,
        labels,
        targets,
        control=control.to(device) if control else None,
        on=request.evaluation.trigger_on,
        batch_size=request.evaluation.batch_size,
        progress=sys.stderr.isatty(),
    )
    if speaks():
        show(report.to_json(), format_battery(report, classifier.spec.labels), as_json=request.json)
    return 0


def compare(arguments: Sequence[str]) -> int:
    """Measures several classifiers, prints the comparison and draws it."""
    from abd_hub.config.measuring import parse_compare

    request = parse_compare(arguments)
    picture = _picture_file(request.picture)
    from accelerate import Accelerator

    from abd_hub.core.files import atomic_path
    from abd_hub.evaluation.measurement import load_model
    from abd_hub.runs.compare import compare as compare_models
    from abd_hub.runs.compare import format_comparison, save_picture, short_names

    names = short_names([model.id for model in request.models])
    models = {name: load_model(model) for name, model in zip(names, request.models, strict=True)}
    options = request.options(models[names[0]].spec.num_classes)
    comparison = compare_models(models, options, device=Accelerator().device)
    if not speaks():
        return 0

    if picture is not None:
        with atomic_path(picture) as temporary:
            save_picture(comparison, temporary)
    show(dataclasses.asdict(comparison), format_comparison(comparison), as_json=request.json)
    if picture is not None:
        print(f"wrote {picture}", file=sys.stderr)
    return 0


def _picture_file(given: str | None) -> Path | None:
    """Returns the place of the picture, checked before the work begins."""
    if given is None:
        return None
    from abd_hub.core.folder import check_file

    check_file(given, "picture", suffix=".png")
    return Path(given)
