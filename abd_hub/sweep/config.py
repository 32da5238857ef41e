"""Reads the file of a sweep into its runs, each one configuration of distill or poison.

The name of a run ends with eight digits of a hash of its settings in the file. Defaults are not in the hash,
so a release with a further option does not repeat finished runs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from abd_hub.config.arguments import read_settings, refuse_unknown
from abd_hub.config.options import DistillConfig
from abd_hub.config.parsing import parse_distill, parse_poison
from abd_hub.config.poison import PoisonConfig
from abd_hub.core.errors import InputError
from abd_hub.core.registry import catalog
from abd_hub.core.settings import NotNegativeOrNone, Positive, Settings
from abd_hub.sweep.names import file_name, label

COMMANDS = ("distill", "poison")
MOST_RUNS = 10_000
"""Most runs of a sweep; ten lists of ten values would make ten billion."""
_OWN = ("output_dir", "resume")
_PUSH = ("push_to_hub", "hub_model_id", "hub_private_repo")


@dataclass(frozen=True, kw_only=True)
class Resources(Settings):
    """Says how much of the cluster one run takes."""

    cpus: Positive = 1
    """Sets the cores of a run, which uses as many threads, at least one."""
    gpus: NotNegativeOrNone = None
    """Sets the cards of a run; below 1, runs share a card. By default 1 if the cluster has cards, else 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise InputError(f"resources.gpus: more than one card must be a whole number, got {self.gpus}")


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """Holds the YAML file of a sweep."""

    output_dir: str
    """Names the folder of the sweep, relative to the working directory."""
    command: str = "distill"
    """Names the command of every run, distill or poison."""
    config: str | Mapping[str, Any] = field(default_factory=dict)
    """Gives the settings of all runs, as a YAML file (relative to this one) or as its content."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Lists values of fields (teacher.id: [...]); every combination is run."""
    runs: Sequence[Any] = ()
    """Lists mappings of fields that vary together; each is combined with the whole grid. Here and in the
    grid, ``config`` names a file that replaces the one above."""
    resources: Resources = field(default_factory=Resources)
    """Sets how much one run takes."""
    retries: int = 2
    """Sets how often a run is started again after its process died."""
    address: str | None = None
    """Names a Ray cluster (host:port, auto, ray://host:port); by default the sweep starts one here."""

    def __post_init__(self) -> None:
        for name in ("output_dir", "address"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.strip()) and (name != "address" or value is not None):
                raise InputError(
                    f"{name}: must be a text, got {value!r}; give one in the file or as --{name}"
                )
        if self.command not in COMMANDS:
            raise InputError(f"command: must be {' or '.join(COMMANDS)}, got {self.command!r}")
        if type(self.retries) is not int or self.retries < 0:
            raise InputError(f"retries: must be a whole number of at least 0, got {self.retries!r}")
        if not isinstance(self.config, str | dict):
            raise InputError(f"config: must be a file or a mapping of fields, got {self.config!r}")
        _check_grid(self.grid)
        _check_runs(self.runs)
        if not self.grid and not self.runs:
            raise InputError("grid: is empty, and so is runs; give at least one of them")
        count = math.prod(map(len, self.grid.values())) * max(1, len(self.runs))
        if count > MOST_RUNS:
            raise InputError(f"grid: makes {count:,} runs, and {MOST_RUNS:,} are the most; list fewer values")


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """Holds one run of a sweep."""

    name: str
    """Names the folder of the run."""
    digest: str
    """Ends the name of the run; a hash of its settings in the file."""
    settings: Mapping[str, Any]
    """Holds the content of the file for ``--config`` of its command."""
    varying: Mapping[str, Any]
    """Maps the fields that differ between runs to their values in this one."""
    config: DistillConfig | PoisonConfig
    """Holds the parsed settings with every default."""

    def group(self) -> str:
        """Returns a key that is the same for all runs with these settings and any seed."""
        return json.dumps({**self.settings, "seed": None}, sort_keys=True, default=str)

    def label(self) -> str:
        """Returns the values that vary, except the seed, in words."""
        return ", ".join(label(name, value) for name, value in self.varying.items() if name != "seed")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Holds a sweep whose file and configurations have been checked."""

    file: SweepFile
    runs: tuple[SweepRun, ...]

    def to_yaml(self) -> str:
        """Returns the content of config.yaml; ``kind`` distinguishes it from the config.yaml of a run."""
        return yaml.safe_dump({"kind": "sweep", **dataclasses.asdict(self.file)}, sort_keys=False)


def read_sweep(file: str | Path, **changes: str | None) -> Sweep:
    """Reads all runs of a sweep, and checks each as its own command would.

    Args:
        file: the YAML file.
        changes: values that replace fields of the file; None keeps the field of the file.

    Raises:
        InputError: the file, or a configuration that follows from it, is wrong.
    """
    content = dict(read_settings(file, "FILE"))
    content |= {name: value for name, value in changes.items() if value is not None}

    known = {f.name for f in dataclasses.fields(SweepFile)}
    for key in content:
        refuse_unknown(str(key), known, f"in {Path(file).name}")
    for key in known - {"address"}:
        if key in content and content[key] is None:
            raise InputError(f"{key}: has no value; give one, or leave the field out for its default")

    content.setdefault("output_dir", None)
    content["resources"] = _resources(content.get("resources", {}), Path(file).name)
    options = SweepFile(**content)
    return Sweep(file=options, runs=tuple(_runs(options, Path(file))))


def _resources(content: Any, place: str) -> Resources:
    if not isinstance(content, dict):
        raise InputError(f"resources: must be a mapping such as {{cpus: 1, gpus: 0.25}}, got {content!r}")
    known = {f.name for f in dataclasses.fields(Resources)}
    for key in content:
        refuse_unknown(f"resources.{key}", {f"resources.{name}" for name in known}, f"in {place}")
    return Resources(**content)


def _check_grid(grid: Any) -> None:
    if not isinstance(grid, dict):
        raise InputError(f"grid: must be a mapping of fields to lists of values, got {grid!r}")
    for name, values in grid.items():
        if not isinstance(values, list):
            raise InputError(f"grid.{name}: must be a list of values, got {values!r}; write [{values}]")
        if not values:
            raise InputError(f"grid.{name}: is empty; give at least one value, or leave the field out")
        for value in values:
            if values.count(value) > 1:
                raise InputError(f"grid.{name}: {value!r} is listed twice; list each value once")
    _refuse_own(grid, "grid", _OWN)
    _refuse_inline(grid.get("config", []), "grid")


def _check_runs(runs: Any) -> None:
    if not isinstance(runs, list | tuple):
        raise InputError(f"runs: must be a list of mappings, got {runs!r}")
    for index, entry in enumerate(runs):
        if not isinstance(entry, dict) or not entry:
            raise InputError(f"runs[{index}]: must be a mapping of fields to values, got {entry!r}")
        _refuse_own(entry, f"runs[{index}]", _OWN)
        _refuse_inline([entry.get("config", "")], f"runs[{index}]")


def _refuse_inline(configs: Sequence[Any], place: str) -> None:
    for config in configs:
        if not isinstance(config, str):
            raise InputError(
                f"{place}.config: must name a file, got {config!r}; list fields by their own names instead"
            )


def _refuse_own(fields: Mapping[str, Any], place: str, own: Sequence[str]) -> None:
    for name in fields:
        if name in own:
            raise InputError(f"{place}.{name}: is the sweep's own field; leave it out")
        if name in _PUSH:
            raise InputError(
                f"{place}.{name}: a sweep pushes nothing; leave it out, and use abd-hub push afterwards"
            )


def _refuse_overlap(names: Sequence[str]) -> None:
    for one, other in itertools.permutations(names, 2):
        if one == other or other.startswith(f"{one}."):
            by = f"and by {one}" if one != other else "in grid or runs"
            raise InputError(f"{other}: is set twice for one run, {by}; set each field in one place")


def _runs(options: SweepFile, file: Path) -> Iterator[SweepRun]:
    drafts = [
        _draft(options, file, entry, point) for entry in options.runs or [{}] for point in _points(options)
    ]
    varying = _varying(drafts)
    chosen = [_chosen(options.command, draft.settings) for draft in drafts]
    chosen += [_chosen(options.command, draft.base) for draft in drafts]
    by_some_run = set().union(*chosen)
    parse = _parser(options.command, file.name)
    names: dict[str, str] = {}

    for draft, own in zip(drafts, chosen, strict=False):
        settings = draft.without(by_some_run - own)
        digest = _digest(options.command, settings)
        shown = {name: draft.changes[name] for name in varying if name in draft.changes}
        words = list(dict.fromkeys(label(name, value) for name, value in shown.items()))
        name = "-".join([*([file_name(words)] if words else []), digest])

        if digest in names:
            raise InputError(
                f"{name}: two runs have the same settings, this one and {names[digest]}; list each run once"
            )
        names[digest] = name

        settings = _with_quiet_trainer(settings)
        yield SweepRun(
            name=name, digest=digest, settings=settings, varying=shown, config=parse(name, settings)
        )


@dataclass(frozen=True)
class _Draft:
    """Holds a run before its settings are parsed."""

    base: dict[str, Any]
    settings: dict[str, Any]
    changes: dict[str, Any]
    """Maps dotted names to the values that ``runs`` and ``grid`` set."""

    def without(self, unchosen: set[str]) -> dict[str, Any]:
        """Returns the settings without the base's groups for plug-ins that only other runs choose."""
        own = {name.partition(".")[0] for name in self.changes}
        return {k: v for k, v in self.settings.items() if k not in unchosen or k in own}


def _points(options: SweepFile) -> list[dict[str, Any]]:
    """Returns every combination of the grid's values; the last field varies fastest."""
    return [
        dict(zip(options.grid, values, strict=True)) for values in itertools.product(*options.grid.values())
    ]


def _draft(options: SweepFile, file: Path, entry: Mapping[str, Any], point: Mapping[str, Any]) -> _Draft:
    changes = [*_flat(entry), *_flat(point)]
    _refuse_overlap([name for name, _ in changes])

    config = dict(changes).get("config", options.config)
    base = _base(config, file)

    settings = copy.deepcopy(base)
    for name, value in changes:
        if name != "config":
            _set(settings, name, copy.deepcopy(value))
    return _Draft(base, settings, dict(_flat(entry)) | dict(point))


def _base(config: str | Mapping[str, Any], file: Path) -> dict[str, Any]:
    content = read_settings(file.parent / config) if isinstance(config, str) else config
    _refuse_own({k: v for k, v in content.items() if v}, "config", ())
    base: dict[str, Any] = {}
    for name, value in _flat({k: v for k, v in content.items() if k not in _OWN}):
        _set(base, name, copy.deepcopy(value))
    return base


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value); splits a section into its fields, but never the value of a field."""
    for name, value in fields.items():
        if isinstance(value, dict) and value and "." not in str(name):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield str(name), value


def _set(settings: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        inner = settings.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(f"{name}: {part} holds {inner!r} in the shared configuration, not a mapping")
        settings = inner
    settings[last] = value


def _varying(drafts: Sequence[_Draft]) -> list[str]:
    """Returns the names of the changes that differ between runs, in the order of the file.

    A change with the same label in all runs (zoo/a/clean and zoo/b/clean) is left out if the other labels
    distinguish every run.
    """
    names = dict.fromkeys(name for draft in drafts for name in draft.changes)
    varying = [name for name in names if _differs(name, drafts)]
    labeled = [name for name in varying if _label_count(drafts, [name]) > 1]

    return labeled if _label_count(drafts, labeled) == len(drafts) else varying


def _differs(name: str, drafts: Sequence[_Draft]) -> bool:
    first = drafts[0]
    return any(draft.changes.get(name, draft) != first.changes.get(name, draft) for draft in drafts)


def _label_count(drafts: Sequence[_Draft], names: Sequence[str]) -> int:
    return len({_labels(draft, names) for draft in drafts})


def _labels(draft: _Draft, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(label(name, draft.changes[name]) if name in draft.changes else "" for name in names)


def _chosen(command: str, settings: Mapping[str, Any]) -> set[str]:
    """Returns the names of the groups of settings that a run chooses by synthesizer, defenses or recipe."""
    if command == "poison":
        return {str(settings.get("recipe", "paper"))}
    defenses = settings.get("defenses", [])
    names = defenses if isinstance(defenses, list) else []
    methods = {entry.name for entry in catalog("synthesizers")}
    # Settings of one method choose it.
    method = [settings["synthesizer"]] if "synthesizer" in settings else methods.intersection(settings)
    return {*map(str, method), *map(str, names)}


def _digest(command: str, settings: Mapping[str, Any]) -> str:
    text = json.dumps([command, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _with_quiet_trainer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without a progress bar unless they name one; in a log it is thousands of lines."""
    trainer = settings.get("trainer", {})
    return {**settings, "trainer": {"progress": False, **trainer} if isinstance(trainer, dict) else trainer}


def _parser(command: str, shown: str) -> Callable[[str, Mapping[str, Any]], DistillConfig | PoisonConfig]:
    """Returns a function from (name, settings) to a checked configuration; errors name the file ``shown``."""
    parsed: dict[str, DistillConfig | PoisonConfig] = {}

    def parse(name: str, settings: Mapping[str, Any]) -> DistillConfig | PoisonConfig:
        seed = settings.get("seed")
        if type(seed) is not int:
            return checked(name, settings)
        # Another seed cannot make the settings wrong, and a parse takes a fifth of a second.
        key = json.dumps({**settings, "seed": None}, sort_keys=True, default=str)
        if key not in parsed:
            parsed[key] = checked(name, settings)
        return dataclasses.replace(parsed[key], output_dir=name, seed=seed)

    def checked(name: str, settings: Mapping[str, Any]) -> DistillConfig | PoisonConfig:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / shown
            file.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
            arguments = ["--config", str(file), "--output_dir", name]
            try:
                if command == "distill":
                    return parse_distill(arguments)
                return parse_poison(arguments)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error

    return parse
