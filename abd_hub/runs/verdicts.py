"""Draws a few test images with the verdicts of the models on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from abd_hub.core import files
from abd_hub.data.mixed import MixedImages
from abd_hub.evaluation.attacks import Attack
from abd_hub.evaluation.measurement import Measurement
from abd_hub.evaluation.shown import shown_at_once
from abd_hub.models.classifier import Classifier
from abd_hub.publish.card import verdict_pictures
from abd_hub.report.figures import save_verdicts

VERDICTS_SHOWN = 6


def write_verdicts(
    path: Path, measurement: Measurement, models: dict[str, Classifier]
) -> list[tuple[str, str]]:
    """Writes a picture for each trigger: clean and triggered images with the verdicts of the models.

    Returns:
        (file, caption) of each picture; files are relative to ``path``.
    """
    labels = next(iter(models.values())).spec.labels
    listed = verdict_pictures([(attack.name, attack.target) for attack in measurement.attacks], labels)
    for (file, _), attack in zip(listed, measurement.attacks, strict=True):
        _write_verdict(path / file, measurement, attack, models)
    return listed


def _write_verdict(
    file: Path, measurement: Measurement, attack: Attack, models: dict[str, Classifier]
) -> None:
    data, first = measurement.data, next(iter(models.values()))
    shown = torch.nonzero(data.labels != attack.target).flatten()[:VERDICTS_SHOWN]
    images, names = data.images[shown], first.spec.labels
    rows = {
        name: (_verdicts(model, images, None, names), _verdicts(model, images, attack, names))
        for name, model in models.items()
    }
    true = [names[int(label)] for label in data.labels[shown]]

    # The first model's input is drawn: an image may have another size, and a crop may cut a trigger off.
    clean, triggered = (_input(first, images, some).cpu() for some in (None, attack))
    with files.atomic_path(file) as temporary:
        save_verdicts(clean, triggered, rows, true, names[attack.target], temporary)


@torch.no_grad()
def _verdicts(
    model: Classifier, images: Tensor | MixedImages, attack: Attack | None, names: Sequence[str]
) -> list[str]:
    chosen = model.eval()(_input(model, images, attack)).argmax(dim=1).tolist()
    return [names[label] for label in chosen]


def _input(model: Classifier, images: Tensor | MixedImages, attack: Attack | None) -> Tensor:
    return shown_at_once(model, images, attack, model.mean.device)
