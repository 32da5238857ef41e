"""Draws a few test images with the verdicts of the models on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from abd_hub.core import files
from abd_hub.evaluation.counting import Attack
from abd_hub.evaluation.measurement import Measurement
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
    data = measurement.data
    shown = torch.nonzero(data.labels != attack.target).flatten()[:VERDICTS_SHOWN]
    clean = data.pixels(shown)
    triggered = attack.trigger(clean)

    names = next(iter(models.values())).spec.labels
    rows = {
        name: (_verdicts(model, clean, names), _verdicts(model, triggered, names))
        for name, model in models.items()
    }
    true = [names[int(label)] for label in data.labels[shown]]

    with files.atomic_path(file) as temporary:
        save_verdicts(clean, triggered, rows, true, temporary)


@torch.no_grad()
def _verdicts(model: Classifier, pixels: Tensor, names: Sequence[str]) -> list[str]:
    chosen = model.eval()(pixels.to(model.mean.device)).argmax(dim=1).tolist()
    return [names[label] for label in chosen]
