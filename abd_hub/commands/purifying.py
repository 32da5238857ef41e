"""``abd-hub purify``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abd_hub.commands.output import show, speaks

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from abd_hub.config.purifying import PurifyRequest
    from abd_hub.core.purifications import PurificationReport
    from abd_hub.models.classifier import Classifier

_IN_PYTHON = "purify it by abd_hub.purify_model in Python"


def purify(arguments: Sequence[str]) -> int:
    """Makes a cleaner copy of a classifier, and writes it to a folder."""
    from abd_hub.config.purifying import parse_purify
    from abd_hub.core.folder import check_folder

    request = parse_purify(arguments)
    check_folder(request.output_dir, existing="none")
    from accelerate import Accelerator

    from abd_hub.evaluation.measurement import load_model
    from abd_hub.models.saving import check_savable
    from abd_hub.runs.inspect import default_images, read_images
    from abd_hub.runs.purify import purify_model

    classifier = load_model(request.model, "")
    check_savable(classifier, _IN_PYTHON)
    accelerator, spec = Accelerator(), classifier.spec
    if request.images is None:
        images = default_images(spec, request.seed, accelerator.device)
    else:
        images = read_images(request.images, request.split, classifier)
    copy, report = purify_model(
        classifier,
        images=images,
        purification=request.purification,
        force=request.force,
        seed=request.seed,
        device=accelerator.device,
    )
    if not speaks():
        return 0

    if report.changed:
        _write(request, classifier, copy, report, images, accelerator)
    show(report.to_json(), format_purification(report), as_json=request.json)
    if report.changed:
        print(f"wrote {request.output_dir}", file=sys.stderr)
    return 0


def _write(
    request: PurifyRequest,
    classifier: Classifier,
    copy: Classifier,
    report: PurificationReport,
    images: Tensor,
    accelerator: Accelerator,
) -> None:
    from abd_hub.runs.purified_folder import make_record, write_purified

    record = make_record(
        classifier,
        copy,
        report,
        request.purification,
        accelerator.device,
        images=_images(request),
        forced=request.force,
        seed=request.seed,
        processes=accelerator.num_processes,
    )
    write_purified(request.output_dir, record, (classifier, copy), report, images)


def format_purification(report: PurificationReport) -> str:
    """Returns what a purification did in a few lines; one line where it left the classifier alone."""
    if not report.changed:
        said = report.detail.rstrip(".")
        forced = "; --force purifies it all the same" if report.name == "none" else ""
        return f"no copy was written: {said}{forced}"
    lines = [
        f"{report.name}: {report.detail}",
        f"agreement: the copy gives the teacher's class to {report.agreement:.1%} of held-back images",
    ]
    for title, found in (("before", report.inspected), ("after", report.reinspected)):
        if found is not None:
            lines.append(f"inspection {title}: {found.detail}")
    return "\n".join([*lines, "This does not show that the copy is clean."])


def _images(request: PurifyRequest) -> str:
    """Returns the name of the images for the record, without a path of this machine."""
    if request.images is None:
        from abd_hub.runs.purified_folder import PATCHES_NAME

        return PATCHES_NAME
    path = Path(request.images).expanduser()
    name = path.resolve().name if path.exists() else request.images
    return f"{name}, split {request.split}"
