"""Ends a run of distill or poison: writes its model, pictures, card and record.

One process writes. metrics.json marks the folder as finished, so it comes after everything that it records.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate import Accelerator
from torch import Tensor

from abd_hub.core import files
from abd_hub.core.folder import write_config
from abd_hub.core.records import ModelRef
from abd_hub.models.classifier import Classifier
from abd_hub.models.saving import save_timm_folder
from abd_hub.models.weights import file_sha256
from abd_hub.publish.card_file import CARD_FILE
from abd_hub.report.figures import save_curves
from abd_hub.report.grids import save_samples

SAMPLES = "samples"
"""Names the folder of the pictures."""
FEWEST_POINTS = 5
"""Fewer points make no curve that means anything."""
_NO_CURVES = ("round", "planned_rounds")
Record = TypeVar("Record")


class RunConfig(Protocol):
    """Declares the part of a configuration that the end of a run needs."""

    @property
    def output_dir(self) -> str:
        """Returns the folder of the run."""

    def to_yaml(self, *, shared: bool = False) -> str:
        """Returns the whole configuration as YAML, without this machine's paths if ``shared``."""


def finish(
    config: RunConfig, accelerator: Accelerator, record: Record, write: Callable[[Path], Record]
) -> Record:
    """Lets the main process write the folder; all processes wait for it.

    Args:
        config: of the run.
        accelerator: of all processes.
        record: still without the hash of the weights file.
        write: fills the given folder and returns the completed record.

    Returns:
        The completed record in the main process, ``record`` in the others.
    """
    if accelerator.is_main_process:
        record = write(Path(config.output_dir))
        # A resume compares the paths until the record is there; a finished folder is shared without paths.
        write_config(config.output_dir, config.to_yaml(shared=True))

    accelerator.wait_for_everyone()
    return record


def write_model(path: Path, model: Classifier, ref: ModelRef) -> ModelRef:
    """Removes temporary files of killed processes, writes the model and returns ``ref`` with its hash."""
    files.clean_temporaries(path)
    save_timm_folder(model, path)
    return dataclasses.replace(ref, sha256=file_sha256([path / "model.safetensors"]))


def read_log(path: Path) -> list[dict[str, float]]:
    """Returns the rows of log.jsonl."""
    return [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def write_curves(path: Path, rows: Sequence[Mapping[str, float]], **options: Any) -> None:
    """Writes samples/curves.png where there are ``FEWEST_POINTS``; ``options`` go to ``save_curves``."""
    points = Counter(name for row in rows for name in row if name not in _NO_CURVES)
    if max(points.values(), default=0) < FEWEST_POINTS:
        return
    with files.atomic_path(path / SAMPLES / "curves.png") as temporary:
        save_curves(rows, temporary, **options)


def write_images(path: Path, name: str, pixels: Tensor) -> None:
    """Writes images, (N, C, H, W) in [0,1], as one picture into the folder of the pictures."""
    with files.atomic_path(path / SAMPLES / name) as temporary:
        save_samples(pixels, temporary)


def write_results(path: Path, card: str, record: Mapping[str, Any]) -> None:
    """Writes README.md and, last, metrics.json."""
    files.write_text(path / CARD_FILE, card)
    files.write_json(path / files.RECORD_FILE, record)
