"""Checks a visitor's request for a distillation before anything begins, and builds its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abd_hub import InputError, catalog, find_plugin
from abd_hub_app.checks import is_whole, within_minutes
from abd_hub_app.shelf import Shelf
from abd_hub_app.sources import LARGEST_LOADED_GB, Source

MOST_ROUNDS = 5_000
MOST_SEED = 2**31 - 1
MOST_LAYERS = 20
_FIRST_METHOD = "zskt"
_VACCINE = "shuffling_vaccine"
_LINES_OF_LOG = 100
_MOST_ATTACKS = 4
_SMALL = 16
"""Limits the image side in pixels up to which a run is that of the demo, with the smallest student."""


def is_small(size: tuple[int, int]) -> bool:
    """Returns whether images of this height and width are as small as those of the demo."""
    return max(size) <= _SMALL


def usual_rounds(size: tuple[int, int]) -> int:
    """Returns rounds that a processor carries out within minutes."""
    return 100 if is_small(size) else 30


def usual_student(size: tuple[int, int]) -> str:
    """Returns the student that suits images of this height and width."""
    return "wrn_10_1" if is_small(size) else "wrn_16_1"


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

        is_whole("rounds", self.rounds, 1, MOST_ROUNDS)
        is_whole("seed", self.seed, 0, MOST_SEED)
        is_whole("vaccine_layers", self.vaccine_layers, 1, MOST_LAYERS)
        within_minutes("minutes", self.minutes)
        _one_of("student", self.student, students())

    def own_settings(self, defense: str) -> dict[str, Any]:
        """Returns the visitor's settings for one defense; the page has fields for the vaccine only."""
        if defense != _VACCINE:
            return {}
        return {"layers": self.vaccine_layers, "check": self.vaccine_check}


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


def configuration(
    asked: DistilRequest, source: Source, shelf: Shelf, run: str, purification: str = "none"
) -> dict[str, Any]:
    """Returns the configuration for ``abd-hub distill --config``.

    Args:
        asked: the settings.
        source: the teacher.
        shelf: models whose measurements are repeated if the teacher has the same labels.
        run: output folder.
        purification: none, or auto, whose inspection uses up the minutes for a larger teacher.
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
        "purification": purification,
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


def _is_plain(options: Mapping[str, Any]) -> bool:
    # A text option could name a file of this machine or of the Hub.
    return all(isinstance(value, int | float) for value in options.values())


def _one_of(field: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{field}: {str(value)[:80]!r} is not offered; use {', '.join(known)}")
