"""Checks a visitor's request for a distillation before anything begins, and builds its configuration."""

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
"""Limits the bytes of an uploaded model.safetensors; a ResNet-18 has 45 MB."""
LARGEST_LOADED_GB = 0.5
"""Limits the gigabytes of a model from the Hub or a folder."""
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
    """Holds the settings of a distillation from the page or a program."""

    method: str
    """Names one of ``methods()``."""
    defenses: tuple[str, ...]
    """Names any of ``defenses()``."""
    rounds: int
    """Sets the rounds, 1 to ``MOST_ROUNDS``."""
    minutes: float
    """Ends the run after so many minutes, above 0, up to ``MOST_MINUTES``, finished or not."""
    seed: int
    """Sets the seed, 0 to ``MOST_SEED``."""
    student: str
    """Names one of the students of ``abd-hub list students``."""
    vaccine_check: bool
    """Says whether the vaccine is used only if its own check accepts it, as in the paper."""
    vaccine_layers: int
    """Sets how many of the teacher's last layers are shuffled."""

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
        """Returns the visitor's settings for one defense; the page has fields for the vaccine only."""
        if defense != _VACCINE:
            return {}
        return {"layers": self.vaccine_layers, "check": self.vaccine_check}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Names the classifier to distill."""

    id: str
    """Holds the id in the form that ``abd-hub distill`` takes."""
    labels: tuple[str, ...] | None
    """Names the classes, if they are known before the model is loaded."""


def methods() -> tuple[str, ...]:
    """Returns the methods that achieve something within minutes on a CPU, the command's default first."""
    return tuple(sorted(_quick("synthesizers"), key=lambda name: (name != _FIRST_METHOD, name)))


def defenses() -> tuple[str, ...]:
    """Returns the defenses that work in a run of minutes."""
    return _quick("defenses")


def _quick(kind: str) -> tuple[str, ...]:
    names = [entry.name for entry in catalog(kind)]
    return tuple(name for name in names if _quick_settings(kind, name, MOST_ROUNDS) is not None)


def _quick_settings(kind: str, name: str, rounds: int) -> dict[str, Any] | None:
    """Returns the settings of the plug-in's class for a run of minutes; None if it offers no such run."""
    plugin = find_plugin(kind, name)
    if plugin is not None and hasattr(plugin, "quick"):
        settings: dict[str, Any] | None = plugin.quick(rounds)
        return settings

    # A class from elsewhere may have no ``quick``; its defense runs as it is, but its method may take hours.
    return {} if kind == "defenses" and plugin is not None else None


def students() -> tuple[str, ...]:
    """Returns the architectures of students, the smallest first."""
    names = [entry.name for entry in catalog("students")]
    return tuple(sorted(names, key=lambda name: (name[0] != "w", name)))


def configuration(asked: DistilRequest, source: Source, shelf: Shelf, run: str) -> dict[str, Any]:
    """Returns the configuration for ``abd-hub distill --config``.

    Args:
        asked: the settings.
        source: the teacher.
        shelf: models whose measurements are repeated if the teacher has the same labels.
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
        # An inspection of a larger teacher would use up the visitor's minutes.
        "purification": "none",
        "trainer": {
            "log_every": max(1, asked.rounds // _LINES_OF_LOG),
            "checkpoint_every": 0,
            "progress": False,
        },
    }

    for name in asked.defenses:
        own = (_quick_settings("defenses", name, asked.rounds) or {}) | asked.own_settings(name)
        settings |= {name: own} if own else {}

    measured = measurement(shelf)
    if measured is not None and source.labels == shelf.labels:
        settings["evaluation"] = measured

    return settings


def measurement(shelf: Shelf) -> dict[str, Any] | None:
    """Returns scikit-learn's digits with the attacks of the shelf's records, if these measured on digits.

    No other data set is used. A record is a stranger's file, and this server would download the data that it
    names.
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
    """Returns one of the models on the page.

    Raises:
        InputError: no model has this name.
    """
    models = {model.name: model for model in shelf.models}
    _one_of("teacher", name, tuple(models))
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
            "run abd-hub distill instead"
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


def _is_plain(options: Mapping[str, Any]) -> bool:
    # A text option could name a file of this machine or of the Hub.
    return all(isinstance(value, int | float) for value in options.values())


def _one_of(field: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{field}: {str(value)[:80]!r} is not offered; use {', '.join(known)}")


def _whole(field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{field}: {value!r:.40} is not possible; use a whole number from {least} to {most}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
