"""Writes the folder of a purified copy: the model, its report, pictures of the triggers and a card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abd_hub.core import files, registry
from abd_hub.core.errors import InputError
from abd_hub.core.folder import check_folder
from abd_hub.core.purifications import REPORT_FILE, Purification, PurificationReport
from abd_hub.core.record_file import environment, to_json
from abd_hub.core.records import PurifiedRecord
from abd_hub.models.classifier import Classifier
from abd_hub.models.saving import check_savable, library_of, save_folder
from abd_hub.publish.card_file import CARD_FILE
from abd_hub.publish.purified_card import purified_pictures, render_purified_card
from abd_hub.runs.finishing import SAMPLES
from abd_hub.runs.inspect import SEARCHED, SHOWN, default_images, write_triggers
from abd_hub.training.running import device_name

PATCHES_NAME = "patches of the photographs of scikit-learn"
_DRAWN = SEARCHED * SHOWN


def make_record(
    classifier: Classifier,
    copy: Classifier,
    report: PurificationReport,
    purification: Purification,
    device: torch.device,
    **facts: Any,
) -> PurifiedRecord:
    """Returns the record of a purified copy, which still lacks the hash of the weights file.

    Args:
        classifier: was purified.
        copy: of ``purify_model``.
        report: of ``purify_model``.
        purification: the settings.
        device: where it was computed.
        facts: images, forced, seed and processes, as in ``PurifiedRecord``.
    """
    return PurifiedRecord(
        model=copy.ref,
        teacher=classifier.ref,
        library=library_of(copy),
        purification=report.to_json(),
        settings=dataclasses.asdict(purification),
        versions=environment(),
        durations=_durations(report),
        device=device_name(device),
        **facts,
    )


def save_purified(
    folder: str | Path,
    models: tuple[Classifier, Classifier],
    report: PurificationReport,
    purification: Purification | None = None,
    *,
    forced: bool = False,
    seed: int = 0,
) -> PurifiedRecord:
    """Writes the folder of a copy that ``purify_model`` has made from patches of photographs.

    Args:
        folder: a new folder.
        models: the classifier and its copy, both on the CPU.
        report: of ``purify_model``, which has changed the copy.
        purification: its settings; by default trigger unlearning.
        forced: whether a classifier was purified that is not flagged.
        seed: of the purification.

    Raises:
        InputError: ``folder`` exists or cannot be written, or the copy is no model of timm or transformers.
    """
    classifier, copy = models
    check_savable(copy, "keep it in Python")
    settings = registry.get("purifications", report.name)() if purification is None else purification
    record = make_record(
        classifier,
        copy,
        report,
        settings,
        copy.mean.device,
        images=PATCHES_NAME,
        forced=forced,
        seed=seed,
        processes=1,
    )
    return write_purified(folder, record, models, report, default_images(copy.spec, seed, most=_DRAWN))


def write_purified(
    folder: str | Path,
    record: PurifiedRecord,
    models: tuple[Classifier, Classifier],
    report: PurificationReport,
    images: Tensor,
) -> PurifiedRecord:
    """Writes everything into a temporary folder and renames this to ``folder``.

    Args:
        folder: a new folder.
        record: of ``make_record``.
        models: the classifier and its purified copy, both on the CPU.
        report: of ``purify_model``; its triggers are drawn.
        images: (n, C, H, W), uint8 or float in [0, 1], for the pictures of the triggers.

    Returns:
        The record, completed with the folder's name and the hash of the weights file.

    Raises:
        InputError: ``folder`` exists or cannot be written.
    """
    place = Path(folder)
    check_folder(place, existing="none")
    classifier, copy = models
    try:
        with files.atomic_path(place) as temporary:
            ref = save_folder(copy, temporary)
            record = dataclasses.replace(record, model=dataclasses.replace(ref, id=place.resolve().name))
            if report.inspected is not None:
                write_triggers(report.inspected, classifier, temporary / SAMPLES, images)
            _write_card(temporary, record, copy)
            files.write_json(temporary / REPORT_FILE, to_json(record, "record"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"output_dir: {folder} cannot be written ({reason}); use another --output_dir"
        ) from error
    return record


def _write_card(folder: Path, record: PurifiedRecord, copy: Classifier) -> None:
    labels = copy.spec.labels
    listed = purified_pictures(record, labels)
    pictures = [(file, caption) for file, caption in listed if (folder / file).is_file()]
    card = render_purified_card(record, labels, pictures, channels=copy.spec.channels)
    files.write_text(folder / CARD_FILE, card)


def _durations(report: PurificationReport) -> Mapping[str, float]:
    inspections = [one.seconds for one in (report.inspected, report.reinspected) if one is not None]
    return {"inspections": round(sum(inspections), 3), "purification": round(report.seconds, 3)}
