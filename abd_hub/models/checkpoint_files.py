"""This module finds and reads the files in the folder of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.records import ModelRef
from abd_hub.hub.choice import choose_weights, why_no_weights
from abd_hub.hub.pull import MAX_TEXT, Place
from abd_hub.models.preprocessing import Images
from abd_hub.models.weights import first_few


@dataclass(frozen=True)
class Loaded:
    """Holds a module with its weights, and the facts that the checkpoint and the caller stated."""

    model: nn.Module
    ref: ModelRef
    labels: tuple[str, ...]
    images: Images
    architecture: str = ""
    """Holds timm's name; it is empty when timm cannot build the module again."""
    model_args: Mapping[str, Any] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    if path.stat().st_size > MAX_TEXT:
        raise InputError(f"model: {path.name} has more than {MAX_TEXT / 1e6:.0f} MB; use another checkpoint")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"model: {path.name} cannot be read as JSON ({reason_of(error)}); restore the file"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"model: {path.name} holds {type(content).__name__}, not an object; restore the file"
        )
    return content


def check_problem(problem: Any, place: Place) -> None:
    """Refuses heads whose outputs are no logits of classes that exclude each other.

    Raises:
        InputError: the problem_type of a configuration of transformers is such a one.
    """
    if problem not in (None, "single_label_classification"):
        raise InputError(
            f"model: config.json of {place.id} says problem_type {str(problem)[:60]!r}; use a classifier "
            "of one label an image, because accuracy, attacks and distillation compare classes"
        )


def weights_of(place: Place, allow_pickle: bool) -> list[Path]:
    """Returns the weights file of a folder, or the parts of a transformers checkpoint.

    Raises:
        InputError: no weights file is there, or none may be read.
    """
    folder = place.folder
    names = [file.name for file in folder.iterdir() if not file.is_dir()]
    files = [folder / name for name in choose_weights(names, allow_pickle) if not name.endswith(".json")]
    if files:
        return files

    below = [f"{file.parent.name}/{file.name}" for file in folder.glob("*/*") if not file.is_dir()]
    raise InputError(f"weights: {why_no_weights([*names, *below], place.id, allow_pickle)}")


def one_file(place: Place, allow_pickle: bool) -> Path:
    """Returns the only weights file of a folder.

    Raises:
        InputError: no file may be read, or there are several.
    """
    files = weights_of(place, allow_pickle)
    if len(files) > 1:
        names = first_few(file.name for file in files)
        raise InputError(f"weights: {place.id} has several weights files ({names}); keep one in the folder")
    return files[0]
