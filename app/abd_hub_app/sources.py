"""Checks where a visitor's model comes from: the page, the Hub, uploaded files or a local folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abd_hub import InputError, RunRecord, is_pickle
from abd_hub_app.shelf import Shelf, ShownModel

LARGEST_MODEL = 50_000_000
"""Limits the bytes of an uploaded model.safetensors; a ResNet-18 has 45 MB."""
LARGEST_LOADED_GB = 0.5
"""Limits the gigabytes of a model from the Hub or a folder."""
UPLOADED = "uploaded"
FILES = ("config.json", "model.safetensors")
_LARGEST_CONFIG = 1_000_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w][\w./-]{0,99})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Names a classifier."""

    id: str
    """Holds the id in the form that ``abd_hub.load_classifier`` takes."""
    labels: tuple[str, ...] | None
    """Names the classes, if they are known before the model is loaded."""


def from_shelf(shelf: Shelf, name: str) -> Source:
    """Returns one of the models on the page.

    Raises:
        InputError: no model has this name.
    """
    models = {model.name: model for model in shelf.models}
    if name not in models:
        raise InputError(f"teacher: {name[:80]!r} is not offered; use {', '.join(models)}")
    return Source(id=f"local-dir:{models[name].folder.resolve()}", labels=shelf.labels)


def first_choice(shelf: Shelf) -> ShownModel:
    """Returns the likeliest teacher, a model that is no student itself."""
    teachers = (model for model in shelf.models if not isinstance(model.record, RunRecord))
    return next(teachers, shelf.models[0])


def from_hub(name: str) -> Source:
    """Returns a public repository of the Hub.

    Raises:
        InputError: the text is no Hub id.
    """
    plain = name.strip().removeprefix("hf-hub:")
    if not _HUB_ID.fullmatch(plain):
        raise InputError(f"hub_id: {plain[:80]!r} is no Hub id; use org/name or org/name@revision")
    return Source(id=f"hf-hub:{plain}", labels=None)


def from_folder(given: str) -> Source:
    """Returns a folder of this machine, for a server that only this machine reaches.

    Raises:
        InputError: the path is no folder of a model with safetensors, or the model is too large.
    """
    path = Path(given.strip()).expanduser()
    if not given.strip() or not path.is_dir():
        raise InputError(
            f"folder: there is no folder {given[:80]!r}; give the folder of a model with safetensors"
        )

    names = sorted(file.name for file in path.iterdir() if file.is_file())
    _refuse_pickles("folder", names, "give a folder with safetensors only")
    if "config.json" not in names:
        raise InputError(
            f"folder: {path.name!r} has no config.json; give the folder of a model with safetensors"
        )

    size = sum((path / name).stat().st_size for name in names if name.endswith(".safetensors"))
    if size > LARGEST_LOADED_GB * 1e9:
        raise InputError(
            f"folder: {path.name!r} holds {size / 1e9:.1f} GB of weights, more than {LARGEST_LOADED_GB:g}; "
            "run abd-hub in a terminal instead"
        )

    _check_config("folder", path / "config.json")
    return Source(id=f"local-dir:{path.resolve()}", labels=_labels(path / "config.json"))


def from_files(files: Sequence[str | Path], place: Path) -> Source:
    """Copies uploaded files to a folder that stays as long as the run, and returns it.

    Args:
        files: exactly config.json and model.safetensors.
        place: new folder for them.

    Raises:
        InputError: a file is missing, of another kind, or too large.
    """
    uploaded = {Path(file).name: Path(file) for file in files}
    _refuse_pickles("files", sorted(uploaded), f"upload {' and '.join(FILES)}")
    for name in uploaded:
        if name not in FILES:
            raise InputError(f"files: {name[:80]!r} is not taken; upload {' and '.join(FILES)}")
    for name in FILES:
        if name not in uploaded:
            raise InputError(f"files: {name} is missing; upload {' and '.join(FILES)}")

    _check_config("files", uploaded["config.json"])
    _check_weights(uploaded["model.safetensors"])

    place.mkdir()
    for name, file in uploaded.items():
        shutil.copyfile(file, place / name)
    return Source(id=f"local-dir:{place}", labels=_labels(place / "config.json"))


def _refuse_pickles(field: str, names: Sequence[str], remedy: str) -> None:
    pickles = [name for name in names if is_pickle(name)]
    if pickles:
        raise InputError(f"{field}: {pickles[0][:80]!r} is a pickle, which can run code; {remedy}")


def _check_config(field: str, file: Path) -> None:
    if file.stat().st_size > _LARGEST_CONFIG:
        raise InputError(
            f"{field}: config.json has more than {_LARGEST_CONFIG // 1_000_000} MB; check the file"
        )
    if not isinstance(_json(file), dict):
        raise InputError(
            f"{field}: config.json holds no JSON object; give the config.json of timm or transformers"
        )


def _check_weights(file: Path) -> None:
    size = file.stat().st_size
    if size > LARGEST_MODEL:
        raise InputError(
            f"files: model.safetensors has {size / 1e6:.0f} MB, more than {LARGEST_MODEL // 1_000_000}; put "
            "the model on the Hub and give its id"
        )
    with file.open("rb") as weights:
        header, sign = int.from_bytes(weights.read(8), "little"), weights.read(1)
    # The file begins with eight bytes for the length of a JSON object, and the object follows.
    if sign != b"{" or header > size - 8:
        raise InputError(
            "files: model.safetensors is no safetensors file, whatever its name says; save the weights as "
            "safetensors"
        )


def _labels(config: Path) -> tuple[str, ...] | None:
    content = _json(config)
    names = content.get("label_names") if isinstance(content, dict) else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
