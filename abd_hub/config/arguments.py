"""This module reads the command line and its YAML files before any parser, and imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from abd_hub.config.presets import preset_file, preset_like, preset_names
from abd_hub.core.errors import InputError
from abd_hub.core.yaml_text import MOST_CHARACTERS, YamlError, read_yaml


@dataclass(frozen=True)
class SettingsFile:
    """Holds a YAML file that ``--config`` names."""

    path: str
    content: Mapping[str, Any]
    source: str
    """The path, or a YAML text in its place; jsonargparse takes both."""

    def without(self, sections: set[str]) -> SettingsFile:
        """Returns the file without some of its sections.

        Each value keeps its spelling, by which jsonargparse distinguishes numbers from texts.
        """
        if not sections.intersection(map(section_name, self.content)):
            return self

        # The source has lost the sections of an earlier call.
        text = Path(self.path).read_text(encoding="utf-8") if self.source == self.path else self.source
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        assert isinstance(node, yaml.MappingNode), "read_settings has seen a mapping"

        node.value = [pair for pair in node.value if section_name(pair[0].value) not in sections]
        kept = {key: value for key, value in self.content.items() if section_name(key) not in sections}
        return SettingsFile(self.path, kept, str(yaml.serialize(node, Dumper=yaml.SafeDumper)))


@dataclass(frozen=True)
class Given:
    """Holds a user's files and the arguments beside them."""

    files: tuple[SettingsFile, ...]
    """The files in the order of the command line; a later one wins."""
    arguments: tuple[str, ...]
    """All other arguments, with underscores in the names of options; they win over the files."""


def read_given(arguments: Sequence[str]) -> Given:
    """Reads the files that ``--config`` and ``--preset`` name and sets the other arguments apart.

    Raises:
        InputError: a file cannot be read or holds no mapping.
    """
    files: list[SettingsFile] = []
    others: list[str] = []
    options = [underscored(argument) for argument in arguments]
    for name, value in option_pairs(options, {"config", "preset"}):
        if name is None:
            others.append(value)
        elif not value:
            remedy = "a YAML file" if name == "config" else f"one of {', '.join(preset_names())}"
            raise InputError(f"--{name}: has no value; give {remedy}")
        else:
            files.append(_read_file(value if name == "config" else preset_file(value)))
    return Given(tuple(files), tuple(others))


def underscored(argument: str) -> str:
    """Returns the argument with underscores in an option's name: --output-dir is --output_dir."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def option_pairs(arguments: Sequence[str], names: set[str]) -> Iterator[tuple[str | None, str]]:
    """Yields each option of ``names`` with its value, and None with each other argument.

    The names come without hyphens. A value is empty where the command line ends or an option follows.
    """
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in names:
            yield None, argument
        elif equals:
            yield name, value
        else:
            missing = not remaining or remaining[0].startswith("--")
            yield name, "" if missing else remaining.pop(0)


def section_name(key: Any) -> str:
    """Returns the section of a dotted key."""
    return str(key).partition(".")[0]


def read_settings(file: str | Path, field: str = "config") -> Mapping[str, Any]:
    """Returns the mapping in a YAML file; messages begin with ``field``.

    Raises:
        InputError: the file cannot be read, is no YAML, or holds no mapping.
    """
    return _read_file(file, field).content


def _read_file(file: str | Path, field: str = "config") -> SettingsFile:
    try:
        with Path(file).open(encoding="utf-8") as stream:
            content = read_yaml(stream.read(MOST_CHARACTERS + 1))
    except YamlError as error:
        raise InputError(f"{field}: {file} is not valid YAML: {' '.join(str(error).split())}") from error
    except FileNotFoundError as error:
        preset = preset_like(str(file))
        remedy = f"use --preset {preset}" if preset else "check the path"
        raise InputError(f"{field}: {file} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a NUL in the name
        raise InputError(f"{field}: {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{field}: {file} must hold a mapping of fields, not {type(content).__name__}")
    return SettingsFile(str(file), content, str(file))


def refuse_unknown(key: str, known: set[str], place: str) -> None:
    """Refuses a dotted key outside of ``known``.

    Raises:
        InputError: the key is unknown; the message names it, its ``place`` and its nearest neighbor.
    """
    groups = {dest.rpartition(".")[0] for dest in known} - {""}
    # A field that holds a mapping takes any key below it, such as student.model_args.depth.
    parts = key.split(".")
    beginnings = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    if beginnings & known or key in groups:
        return

    near = difflib.get_close_matches(key, known | groups, n=1, cutoff=0.5)
    raise InputError(f"{key}: unknown key {place}" + (f"; did you mean {near[0]}?" if near else ""))
