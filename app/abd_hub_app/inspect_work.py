"""Inspects and purifies within the process of a run, and writes what the page shows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from abd_hub import (
    Classifier,
    InputError,
    TriggerInversion,
    format_purification,
    inspect_model,
    load_classifier,
    purify_model,
    save_purified,
)
from abd_hub_app.images import to_pixels
from abd_hub_app.inspect_case import (
    ANSWERS,
    OUTCOME,
    Case,
    choose_images,
    read_case,
    write_answers,
    write_case,
)
from abd_hub_app.run_child import CASE
from abd_hub_app.sources import LARGEST_LOADED_GB

PICTURES = "pictures"
"""Names the folder with pictures of the page; without it photographs are used."""
_ROWS, _COLUMNS = 3, 4
"""Cuts each photograph into so many squares."""


def inspect(settings: Mapping[str, Any], place: Path) -> None:
    """Inspects a model.

    Args:
        settings: id, seed and steps.
        place: folder of the run; the case is written into its folder ``inspection``.

    Raises:
        InputError: the model cannot be loaded or inspected.
    """
    classifier = load_classifier(settings["id"], max_size_gb=LARGEST_LOADED_GB)
    report = inspect_model(
        classifier,
        inspection=TriggerInversion(steps=settings["steps"]),
        seed=settings["seed"],
        device=_device(),
    )

    images, of = _images(classifier, place / PICTURES)
    case = Case(report=report, images=images, chosen=())
    if case.trigger is not None:
        chosen = choose_images(classifier, images, case.trigger.label)
        case = dataclasses.replace(case, chosen=chosen)

    folder = place / "inspection"
    folder.mkdir()
    write_answers(classifier, case, folder / ANSWERS)
    spec = classifier.spec
    facts = {
        "model": dataclasses.asdict(classifier.ref) | {"size": [spec.channels, spec.height, spec.width]},
        "images_of": of,
        "settings": {"seed": settings["seed"], "steps": settings["steps"]},
    }
    write_case(case, facts, folder)


def purify(settings: Mapping[str, Any], place: Path) -> None:
    """Purifies an inspected model.

    Args:
        settings: id, seed, steps, sha256 and force.
        place: folder of the run, with the case in its folder ``CASE``; the copy goes into ``purified``.

    Raises:
        InputError: the model has changed since its inspection, or cannot be purified.
    """
    case = read_case(place / CASE)
    classifier = load_classifier(settings["id"], max_size_gb=LARGEST_LOADED_GB)
    if classifier.ref.sha256 != settings["sha256"]:
        raise InputError("model: its weights have changed since the inspection; inspect it again")

    device = _device()
    seed, force = settings["seed"], settings["force"]
    copy, done = purify_model(
        classifier,
        inspection=TriggerInversion(steps=settings["steps"]),
        report=case.report,
        force=force,
        seed=seed,
        device=device,
    )
    lines = [done.detail]
    if done.changed:
        save_purified(place / "purified", (classifier, copy), done, forced=force, seed=seed)
        write_answers(copy, case, place / ANSWERS)
        lines = format_purification(done).splitlines()

    told = {"lines": lines, "report": done.to_json()}
    (place / OUTCOME).write_text(json.dumps(told), encoding="utf-8")


def answer_student(place: Path, run: Path) -> None:
    """Writes the answers of a finished student to the images of the case."""
    student = load_classifier(f"local-dir:{run}")
    write_answers(student, read_case(place / CASE), place / ANSWERS)


def _device() -> torch.device:
    from accelerate import Accelerator

    device: torch.device = Accelerator().device
    return device


def _images(classifier: Classifier, folder: Path) -> tuple[Tensor, str]:
    """Returns images as the model takes them, and what they are of."""
    files = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if files:
        pictures = [to_pixels(Image.open(file)) for file in files]
        return torch.cat([classifier.prepare(one) for one in pictures]), "examples"
    return torch.cat([classifier.prepare(one) for one in _squares()]), "photographs"


def _squares() -> list[Tensor]:
    """Returns squares of scikit-learn's two photographs, (1, 3, side, side)."""
    from sklearn.datasets import load_sample_images

    squares = []
    for photograph in load_sample_images().images:
        pixels = to_pixels(Image.fromarray(photograph))
        side = min(pixels.shape[2] // _ROWS, pixels.shape[3] // _COLUMNS)
        rows = range(0, side * _ROWS, side)
        columns = range(0, side * _COLUMNS, side)
        squares += [
            pixels[:, :, row : row + side, column : column + side] for row in rows for column in columns
        ]
    return squares
