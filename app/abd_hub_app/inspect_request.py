"""Checks a visitor's request for an inspection, and writes what its process reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from abd_hub import TriggerInversion
from abd_hub_app.checks import is_whole, within_minutes
from abd_hub_app.distil_request import MOST_SEED
from abd_hub_app.inspect_work import PICTURES
from abd_hub_app.run_job import CONFIG
from abd_hub_app.sources import Source

LEAST_STEPS, MOST_STEPS = 60, TriggerInversion().steps
"""Bounds the steps; after a few, most classes are not reached and any that is would stand out."""
USUAL_STEPS = 200
"""Ends an inspection of ten classes of 32x32 within a minute of two cores, by a wide ResNet of 16 layers."""


@dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """Holds the settings of an inspection from the page or a program."""

    steps: int
    """Limits the steps of the search, ``LEAST_STEPS`` to ``MOST_STEPS``."""
    seed: int
    """Sets the seed, 0 to ``MOST_SEED``."""
    minutes: float
    """Ends the run after so many minutes, finished or not."""

    def __post_init__(self) -> None:
        is_whole("steps", self.steps, LEAST_STEPS, MOST_STEPS)
        is_whole("seed", self.seed, 0, MOST_SEED)
        within_minutes("minutes", self.minutes)


def write_request(
    asked: InspectRequest, source: Source, pictures: Sequence[Image.Image], place: Path
) -> None:
    """Writes the settings of a run and the pictures on which it shows the trigger.

    Args:
        asked: the settings.
        source: the model.
        pictures: of the page, if they suit the model; without any, the run takes photographs.
        place: folder of the run.
    """
    settings: dict[str, Any] = {
        "id": source.id,
        "labels": source.labels,
        "steps": asked.steps,
        "seed": asked.seed,
    }
    (place / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    write_pictures(pictures, place)


def write_pictures(pictures: Sequence[Image.Image], place: Path) -> None:
    """Writes the pictures on which an inspection shows the trigger into the folder of a run."""
    if pictures:
        (place / PICTURES).mkdir()
    for number, picture in enumerate(pictures):
        picture.save(place / PICTURES / f"{number:02}.png")
