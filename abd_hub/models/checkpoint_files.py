"""This module finds and reads the files in the folder of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.pickles import is_pickle
from abd_hub.core.records import ModelRef
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


def weights_of(place: Place, allow_pickle: bool) -> list[Path]:
    """Returns the weights file of a folder, or the parts of a transformers checkpoint.

    Raises:
        InputError: no weights file is there, or none may be read.
    """
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", "*.safetensors"):
        files = sorted(place.folder.glob(pattern))
        if files:
            return files

    pickles = sorted(file for file in place.folder.iterdir() if is_pickle(file))
    if pickles and allow_pickle:
        return pickles
    if not allow_pickle and (
        pickles or place.revision
    ):  # pickles of the Hub are fetched with permission only
        raise InputError(
            f"weights: {place.id} has no safetensors file; pass allow_pickle=true if its pickle may be read"
        )
    raise InputError(f"weights: {place.id} has no weights file; put model.safetensors there")


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
