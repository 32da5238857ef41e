"""The file of a sweep, and the runs that it stands for: each one configuration of distill or poison.

The name of a run ends with eight digits of a hash of what the file says about it. Defaults are not in the
hash, so that a release with a further option does not repeat what is finished.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
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
from abd_hub.core.settings import NotNegativeOrNone, Positive, Settings
from abd_hub.sweep.names import file_name, label

COMMANDS = ("distill", "poison")
_OWN = ("output_dir", "resume")
_PUSH = ("push_to_hub", "hub_model_id", "hub_private_repo")


@dataclass(frozen=True, kw_only=True)
class Resources(Settings):
    """What one run takes of the cluster."""

    cpus: Positive = 1
    """Cores; a run uses as many threads, at least one."""
    gpus: NotNegativeOrNone = None
    """Cards, below 1 for several runs on one card; by default 1 where the cluster has cards, else 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise InputError(f"resources.gpus: more than one card must be a whole number, got {self.gpus}")


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """What the YAML file of a sweep says."""

    output_dir: str
    """Folder of the sweep, relative to where the command is given."""
    command: str = "distill"
    """What each run is: distill or poison."""
    config: str | Mapping[str, Any] = field(default_factory=dict)
    """What all runs share: a YAML file, relative to this one, or its content."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Lists of values of fields (teacher.id: [...]); every combination is run."""
    runs: Sequence[Any] = ()
    """Fields that vary together: a list of mappings, each combined with the whole grid. Here, as in the grid,
    ``config`` is a file that takes the place of the one above."""
    resources: Resources = field(default_factory=Resources)
    """What one run takes."""
    retries: int = 2
    """How often a run whose process has died is begun again."""
    address: str | None = None
    """A Ray cluster (host:port, auto, ray://host:port); by default one is started here for the time."""

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
            raise InputError("grid: is empty, and so is runs; give lists of values in one of them")


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """Of its folder."""
    digest: str
    """Of what the file says about it, the end of its name."""
    settings: Mapping[str, Any]
    """What ``--config`` of its command reads."""
    varying: Mapping[str, Any]
    """The fields that differ between runs, with their values here."""
    config: DistillConfig | PoisonConfig
    """The same, parsed, with every default."""

    def group(self) -> str:
        """What the runs have in common that differ in nothing but the seed."""
        return json.dumps({**self.settings, "seed": None}, sort_keys=True, default=str)

    def label(self) -> str:
        """The values that vary, but for the seed, in words."""
        return ", ".join(label(name, value) for name, value in self.varying.items() if name != "seed")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that has been checked as far as that is possible without any work."""

    file: SweepFile
    runs: tuple[SweepRun, ...]

    def to_yaml(self) -> str:
        """Its part of config.yaml in the folder; ``kind`` tells it from the folder of a run."""
        return yaml.safe_dump({"kind": "sweep", **dataclasses.asdict(self.file)}, sort_keys=False)


def read_sweep(file: str | Path, **changes: str | None) -> Sweep:
    """All runs of a sweep, each checked as its own command would check it.

    Args:
        file: the YAML file.
        changes: fields that take the place of those of the file; None leaves them.

    Raises:
        InputError: something in the file, or in a configuration that it leads to, is wrong.
    """
    content = dict(read_settings(file, "FILE")) | {k: v for k, v in changes.items() if v is not None}
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
            raise InputError(f"grid.{name}: is empty; give at least one value or leave it out")
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
                f"{place}.config: must name a file, got {config!r}; give fields by their own names"
            )


def _refuse_own(fields: Mapping[str, Any], place: str, own: Sequence[str]) -> None:
    for name in fields:
        if name in own:
            raise InputError(f"{place}.{name}: is the sweep's own to set; leave it out")
        if name in _PUSH:
            raise InputError(
                f"{place}.{name}: a sweep pushes nothing; push the runs you want with abd-hub push"
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
    for draft, wanted in zip(drafts, chosen, strict=False):
        settings = draft.without(by_some_run - wanted)
        digest = _digest(options.command, settings)
        shown = {name: draft.changes[name] for name in varying if name in draft.changes}
        words = list(dict.fromkeys(label(name, value) for name, value in shown.items()))
        name = "-".join([*([file_name(words)] if words else []), digest])
        if digest in names:
            raise InputError(
                f"{name}: two runs have the same settings, this and {names[digest]}; list each once"
            )
        names[digest] = name
        settings = _with_quiet_trainer(settings)
        yield SweepRun(
            name=name, digest=digest, settings=settings, varying=shown, config=parse(name, settings)
        )


@dataclass(frozen=True)
class _Draft:
    """A run before it is parsed."""

    base: dict[str, Any]
    settings: dict[str, Any]
    changes: dict[str, Any]
    """What ``runs`` and ``grid`` have set, by dotted name."""

    def without(self, unchosen: set[str]) -> dict[str, Any]:
        """The settings without the base's groups for what only other runs choose."""
        own = {name.partition(".")[0] for name in self.changes}
        return {k: v for k, v in self.settings.items() if k not in unchosen or k in own}


def _points(options: SweepFile) -> list[dict[str, Any]]:
    """Every combination of the grid's values, the last field fastest."""
    return [
        dict(zip(options.grid, values, strict=True)) for values in itertools.product(*options.grid.values())
    ]


def _draft(options: SweepFile, file: Path, entry: Mapping[str, Any], point: Mapping[str, Any]) -> _Draft:
    given = [*_flat(entry), *_flat(point)]
    _refuse_overlap([name for name, _ in given])
    config = dict(given).get("config", options.config)
    base = _base(config, file)
    settings = copy.deepcopy(base)
    for name, value in given:
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
    """Dotted names of fields with their values; a section is taken apart, the value of a field never."""
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
    """Names of the changes that are not the same in all runs, in the order of the file.

    Those whose labels are the same everywhere (zoo/a/clean and zoo/b/clean) are left out, where the others
    suffice to tell the runs apart.
    """
    names = dict.fromkeys(name for draft in drafts for name in draft.changes)
    found = [n for n in names if any(d.changes.get(n, d) != drafts[0].changes.get(n, d) for d in drafts)]
    telling = [n for n in found if len({_labels(draft, [n]) for draft in drafts}) > 1]
    return telling if len({_labels(draft, telling) for draft in drafts}) == len(drafts) else found


def _labels(draft: _Draft, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(label(name, draft.changes[name]) if name in draft.changes else "" for name in names)


def _chosen(command: str, settings: Mapping[str, Any]) -> set[str]:
    """Names of the groups of settings that a run uses, of those that it has to choose."""
    if command == "poison":
        return {str(settings.get("recipe", "paper"))}
    defenses = settings.get("defenses", [])
    names = defenses if isinstance(defenses, list) else []
    return {str(settings.get("synthesizer", "zskt")), *map(str, names)}


def _digest(command: str, settings: Mapping[str, Any]) -> str:
    text = json.dumps([command, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _with_quiet_trainer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without a progress bar unless asked for: in a log file it is thousands of lines."""
    trainer = settings.get("trainer", {})
    return {**settings, "trainer": {"progress": False, **trainer} if isinstance(trainer, dict) else trainer}


def _parser(command: str, shown: str) -> Callable[[str, Mapping[str, Any]], DistillConfig | PoisonConfig]:
    """A function from (name, settings) to the checked configuration; ``shown`` names the file in messages."""
    parsed: dict[str, DistillConfig | PoisonConfig] = {}

    def parse(name: str, settings: Mapping[str, Any]) -> DistillConfig | PoisonConfig:
        seed = settings.get("seed")
        if type(seed) is not int:
            return checked(name, settings)
        # Another seed can be no reason for a refusal, and a parse takes a fifth of a second.
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
