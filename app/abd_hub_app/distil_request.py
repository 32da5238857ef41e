"""What a visitor wishes to have distilled, looked at before anything begins, and its configuration."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abd_hub import InputError, RunRecord, catalog, find_plugin, is_pickle
from abd_hub_app.shelf import Shelf, ShownModel

MOST_ROUNDS = 5_000
MOST_MINUTES = 15.0
MOST_SEED = 2**31 - 1
MOST_LAYERS = 20
LARGEST_MODEL = 50_000_000
"""Bytes of an uploaded model.safetensors; a ResNet-18 has 45 MB."""
LARGEST_LOADED_GB = 0.5
"""Of a model from the Hub or a folder."""
UPLOADED = "uploaded"
FILES = ("config.json", "model.safetensors")
_LARGEST_CONFIG = 1_000_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w][\w./-]{0,99})?", re.ASCII)
_FIRST_METHOD = "zskt"
_VACCINE = "shuffling_vaccine"
_LINES_OF_LOG = 100
_MOST_ATTACKS = 4


@dataclass(frozen=True, kw_only=True)
class DistilRequest:
    """How to distil, as the page or a program gives it."""

    method: str
    """One of ``methods()``."""
    defenses: tuple[str, ...]
    """Any of ``defenses()``."""
    rounds: int
    """1 to ``MOST_ROUNDS``."""
    minutes: float
    """Above 0, up to ``MOST_MINUTES``: the run ends then, finished or not."""
    seed: int
    """0 to ``MOST_SEED``."""
    student: str
    """One of the students of ``abd-hub list students``."""
    vaccine_check: bool
    """Whether the vaccine is used only if its own check accepts it, as in the paper."""
    vaccine_layers: int
    """How many of the teacher's last layers are shuffled."""

    def __post_init__(self) -> None:
        _one_of("method", self.method, methods())
        for name in self.defenses:
            _one_of("defenses", name, defenses())
        if len(set(self.defenses)) < len(self.defenses):
            raise InputError("defenses: one is named twice; name each once")
        _whole("rounds", self.rounds, 1, MOST_ROUNDS)
        _whole("seed", self.seed, 0, MOST_SEED)
        _whole("vaccine_layers", self.vaccine_layers, 1, MOST_LAYERS)
        if not _is_number(self.minutes) or not 0 < self.minutes <= MOST_MINUTES:
            raise InputError(f"minutes: {self.minutes!r:.40} is not possible; use up to {MOST_MINUTES:g}")
        _one_of("student", self.student, students())

    def own_settings(self, defense: str) -> dict[str, Any]:
        """What the visitor has set for one defense: the page has fields for the vaccine only."""
        if defense != _VACCINE:
            return {}
        return {"layers": self.vaccine_layers, "check": self.vaccine_check}


@dataclass(frozen=True, kw_only=True)
class Source:
    """The classifier to distil."""

    id: str
    """As ``abd-hub distill`` takes it."""
    labels: tuple[str, ...] | None
    """Of its classes, where they are known before it is loaded."""


def methods() -> tuple[str, ...]:
    """The methods that get somewhere within minutes on a CPU, the command's own choice first."""
    return tuple(sorted(_quick("synthesizers"), key=lambda name: (name != _FIRST_METHOD, name)))


def defenses() -> tuple[str, ...]:
    """The defenses that can be used in a run of minutes."""
    return _quick("defenses")


def _quick(kind: str) -> tuple[str, ...]:
    names = [entry.name for entry in catalog(kind)]
    return tuple(name for name in names if _quick_settings(kind, name, MOST_ROUNDS) is not None)


def _quick_settings(kind: str, name: str, rounds: int) -> dict[str, Any] | None:
    """What the plug-in's class sets for a run of minutes; None where it offers no such run."""
    plugin = find_plugin(kind, name)
    if plugin is not None and hasattr(plugin, "quick"):
        found: dict[str, Any] | None = plugin.quick(rounds)
        return found
    # Somebody else's class may tell nothing: a defense is tried as it is, a method may take hours.
    return {} if kind == "defenses" and plugin is not None else None


def students() -> tuple[str, ...]:
    """The architectures to choose from, the smallest first."""
    return tuple(
        sorted((entry.name for entry in catalog("students")), key=lambda name: (name[0] != "w", name))
    )


def configuration(asked: DistilRequest, source: Source, shelf: Shelf, run: str) -> dict[str, Any]:
    """What ``abd-hub distill --config`` takes.

    Args:
        asked: how to distil.
        source: what to distil.
        shelf: whose measurements are repeated where the teacher gives the same labels.
        run: output folder.
    """
    settings: dict[str, Any] = {
        "output_dir": run,
        "seed": asked.seed,
        "teacher": {"id": source.id, "max_size_gb": LARGEST_LOADED_GB},
        "student": {"architecture": asked.student},
        "synthesizer": asked.method,
        asked.method: {
            "rounds": asked.rounds,
            **(_quick_settings("synthesizers", asked.method, asked.rounds) or {}),
        },
        "defenses": list(asked.defenses),
        "trainer": {
            "log_every": max(1, asked.rounds // _LINES_OF_LOG),
            "checkpoint_every": 0,
            "progress": False,
        },
    }
    for name in asked.defenses:
        found = (_quick_settings("defenses", name, asked.rounds) or {}) | asked.own_settings(name)
        settings |= {name: found} if found else {}
    measured = measurement(shelf)
    if measured is not None and source.labels == shelf.labels:
        settings["evaluation"] = measured
    return settings


def measurement(shelf: Shelf) -> dict[str, Any] | None:
    """scikit-learn's digits with the attacks of the shelf's records, where these were measured on digits.

    No other data: a record is a stranger's file, and what it names would be downloaded here.
    """
    records = [model.record for model in shelf.models if model.record is not None]
    if {record.data.id for record in records if record.data is not None} != {"digits"}:
        return None
    attacks = [attack for attack in shelf.attacks if _is_plain(attack.options)][:_MOST_ATTACKS]
    return {
        "dataset": "digits",
        "triggers": [
            {"name": attack.trigger, "target": attack.target, "options": dict(attack.options)}
            for attack in attacks
        ],
    }


def from_shelf(shelf: Shelf, name: str) -> Source:
    """One of the models that are shown.

    Raises:
        InputError: there is no such model.
    """
    found = {model.name: model for model in shelf.models}
    _one_of("teacher", name, tuple(found))
    return Source(id=f"local-dir:{found[name].folder.resolve()}", labels=shelf.labels)


def first_choice(shelf: Shelf) -> ShownModel:
    """What a visitor most likely wants to distil: a model that is no student itself."""
    teachers = (model for model in shelf.models if not isinstance(model.record, RunRecord))
    return next(teachers, shelf.models[0])


def from_hub(name: str) -> Source:
    """A public repository.

    Raises:
        InputError: it is no name of one.
    """
    plain = name.strip().removeprefix("hf-hub:")
    if not _HUB_ID.fullmatch(plain):
        raise InputError(f"hub_id: {plain[:80]!r} is no Hub id; use org/name or org/name@revision")
    return Source(id=f"hf-hub:{plain}", labels=None)


def from_folder(given: str) -> Source:
    """A folder of this machine, for a server that only this machine reaches.

    Raises:
        InputError: it is no folder of a model with safetensors, or too large.
    """
    path = Path(given.strip()).expanduser()
    if not given.strip() or not path.is_dir():
        raise InputError(f"folder: there is no folder {given[:80]!r}; give that of a model with safetensors")
    names = sorted(file.name for file in path.iterdir() if file.is_file())
    _refuse_pickles("folder", names, "give a folder with safetensors only")
    if "config.json" not in names:
        raise InputError(f"folder: {path.name!r} has no config.json; give that of a model with safetensors")
    size = sum((path / name).stat().st_size for name in names if name.endswith(".safetensors"))
    if size > LARGEST_LOADED_GB * 1e9:
        raise InputError(
            f"folder: {path.name!r} holds {size / 1e9:.1f} GB of weights, more than {LARGEST_LOADED_GB:g}; "
            "run abd-hub distill instead"
        )
    _check_config("folder", path / "config.json")
    return Source(id=f"local-dir:{path.resolve()}", labels=_labels(path / "config.json"))


def from_files(files: Sequence[str | Path], place: Path) -> Source:
    """Uploaded files, copied to where they stay as long as the run does.

    Args:
        files: exactly config.json and model.safetensors.
        place: new folder for them.

    Raises:
        InputError: one is missing, is something else, or is too large.
    """
    found = {Path(file).name: Path(file) for file in files}
    _refuse_pickles("files", sorted(found), f"upload {' and '.join(FILES)}")
    for name in found:
        if name not in FILES:
            raise InputError(f"files: {name[:80]!r} is not taken; upload {' and '.join(FILES)}")
    for name in FILES:
        if name not in found:
            raise InputError(f"files: {name} is missing; upload {' and '.join(FILES)}")
    _check_config("files", found["config.json"])
    _check_weights(found["model.safetensors"])
    place.mkdir()
    for name, file in found.items():
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
        raise InputError(f"{field}: config.json holds no JSON object; take that of timm or transformers")


def _check_weights(file: Path) -> None:
    size = file.stat().st_size
    if size > LARGEST_MODEL:
        raise InputError(
            f"files: model.safetensors has {size / 1e6:.0f} MB, more than {LARGEST_MODEL // 1_000_000}; put "
            "the model on the Hub and give its id"
        )
    with file.open("rb") as weights:
        header, sign = int.from_bytes(weights.read(8), "little"), weights.read(1)
    # Eight bytes with the length of a JSON object, then the object.
    if sign != b"{" or header > size - 8:
        raise InputError(
            "files: model.safetensors is no safetensors file, whatever its name says; a pickle can run code "
            "and is never read"
        )


def _labels(config: Path) -> tuple[str, ...] | None:
    found = _json(config)
    names = found.get("label_names") if isinstance(found, dict) else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _is_plain(options: Mapping[str, Any]) -> bool:
    # An option of text could name a file of this machine or of the Hub.
    return all(isinstance(value, int | float) for value in options.values())


def _one_of(field: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{field}: {str(value)[:80]!r} is not offered; use {', '.join(known)}")


def _whole(field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{field}: {value!r:.40} is not possible; use a whole number from {least} to {most}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
