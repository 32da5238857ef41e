"""Writes the folder of a teacher that was trained: model, indices, pictures, card and record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from abd_hub.core import files
from abd_hub.core.record_file import to_json
from abd_hub.core.records import TeacherRecord
from abd_hub.data.images import ImageData
from abd_hub.data.poisoning import PoisonedSet
from abd_hub.evaluation.measurement import Measurement
from abd_hub.models.classifier import Classifier
from abd_hub.publish.teacher_card import render_teacher_card, teacher_pictures
from abd_hub.runs.finishing import read_log, write_curves, write_images, write_model, write_results
from abd_hub.runs.verdicts import write_verdicts

INDICES_FILE = "poison.json"
SAMPLES_SHOWN = 16


@dataclass(frozen=True)
class Material:
    """Holds the data that a run learns from and is measured with."""

    data: ImageData
    """Holds the whole training split, clean."""
    kept: Tensor
    """Holds the indices of the images for training."""
    held_out: Tensor
    """Holds the indices of the other images."""
    poisoned: PoisonedSet
    """Holds the kept images; without a trigger none is poisoned."""
    measurement: Measurement


def write_teacher_folder(
    path: Path, record: TeacherRecord, teacher: Classifier, material: Material
) -> TeacherRecord:
    """Writes model, indices, pictures and card, and last metrics.json, which marks a finished folder."""
    record = dataclasses.replace(record, model=write_model(path, teacher, record.model))
    files.write_json(path / INDICES_FILE, _indices(material))
    _write_pictures(path, teacher, material)

    labels = teacher.spec.labels
    pictures = [(file, text) for file, text in teacher_pictures(record, labels) if (path / file).is_file()]
    card = render_teacher_card(record, labels, pictures, channels=teacher.spec.channels)
    content = to_json(record, "record")
    head = {name: content.pop(name) for name in ("schema_version", "kind")}
    write_results(path, card, head | content)
    return record


def _indices(material: Material) -> dict[str, object]:
    """Returns which images of the training split were held out, poisoned or used as cover."""
    kept, poisoned = material.kept, material.poisoned
    return {
        "fingerprint": material.data.ref.fingerprint,
        "held_out": material.held_out.tolist(),
        "poisoned": kept[poisoned.indices].tolist(),
        "cover": kept[poisoned.cover].tolist(),
    }


def _write_pictures(path: Path, teacher: Classifier, material: Material) -> None:
    """Writes the files that ``teacher_pictures`` lists; too few points make no curves."""
    curves = [_curve_point(row) for row in read_log(path)]
    write_curves(path, curves, unit="epoch")

    shown = material.poisoned.indices[:SAMPLES_SHOWN]
    if len(shown):
        write_images(path, "poisoned.png", material.poisoned.images[shown].float() / 255)

    # All-to-all has an attack for every target; one picture is enough to show the trigger.
    first = dataclasses.replace(material.measurement, attacks=material.measurement.attacks[:1])
    write_verdicts(path, first, {"teacher": teacher})


def _curve_point(row: Mapping[str, float]) -> dict[str, float]:
    return {
        "round": row["epoch"],
        "loss": row["loss"],
        "training_accuracy": row["training_accuracy"],
    }
