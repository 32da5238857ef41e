"""This module finds a user's choice of plug-ins before any parser: only their settings become options."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abd_hub.config.arguments import Given, SettingsFile, option_pairs, section_name
from abd_hub.core.errors import InputError
from abd_hub.core.yaml_text import YamlError, read_yaml


@dataclass(frozen=True)
class Choice:
    """Describes a field that names plug-ins; their settings stand in sections of the same names."""

    field: str
    known: Callable[[], Sequence[str]]
    """Function that returns all valid names."""
    default: tuple[str, ...]
    several: bool = False
    """Whether the field holds a list of names rather than one."""


@dataclass(frozen=True)
class Chosen:
    """Holds the names of every choice, and the files and arguments for the parser."""

    names: Mapping[str, tuple[str, ...]]
    """The names by the field of their choice."""
    files: tuple[SettingsFile, ...]
    """The files without the sections that the command line has made needless."""
    arguments: tuple[str, ...]
    """The command line, with each choice written in one way."""


def choose(given: Given, choices: Sequence[Choice]) -> Chosen:
    """Returns the choices of the files and of the command line, which wins over the files.

    Where the command line replaces a plug-in that a file chose, the file's settings of it are left out.

    Raises:
        InputError: a choice has no value, the wrong type, an unknown name or a name twice. Or there are
            settings of a plug-in that is not chosen.
    """
    names: dict[str, tuple[str, ...]] = {}
    rest: list[str] = list(given.arguments)
    needless: set[str] = set()
    for choice in choices:
        of_files = [_names_in_file(choice, file) for file in given.files if choice.field in file.content]
        typed, rest = _typed(choice, rest)
        chosen = typed(of_files[-1] if of_files else choice.default)
        _check_names(choice, chosen)
        names[choice.field] = chosen

        by_files = set().union(*of_files) if of_files else set(choice.default)
        for file in given.files:
            needless |= _needless(choice, file, chosen, by_files)
        _refuse_unchosen_arguments(choice, rest, chosen)

    files = tuple(file.without(needless) for file in given.files)
    written = [_written(choice, names[choice.field]) for choice in choices]
    return Chosen(names, files, (*rest, *written))


def _written(choice: Choice, names: tuple[str, ...]) -> str:
    return f"--{choice.field}={json.dumps(list(names)) if choice.several else names[0]}"


def _names_in_file(choice: Choice, file: SettingsFile) -> tuple[str, ...]:
    value = file.content[choice.field]
    if value is None:
        raise _no_value(choice)
    names = value if choice.several else [value]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        wanted = "a list of names such as [a, b]" if choice.several else "a name"
        raise InputError(f"{choice.field}: must be {wanted}, got {value!r}")
    return tuple(names)


def _typed(
    choice: Choice, arguments: Sequence[str]
) -> tuple[Callable[[tuple[str, ...]], tuple[str, ...]], list[str]]:
    """Returns a function that applies the command line to the files' names, and the other arguments."""
    replaces = False
    names: list[str] = []
    others: list[str] = []
    for name, value in option_pairs(arguments, {choice.field, f"{choice.field}+"}):
        if name is None:
            others.append(value)
            continue
        if name.endswith("+") and not choice.several:
            raise InputError(f"{choice.field}: takes one name; leave the + out")
        added = _names_in_argument(choice, value)
        names = [*names, *added] if choice.several else added
        replaces = replaces or not name.endswith("+")
    return (lambda before: tuple(names) if replaces else (*before, *names)), others


def _names_in_argument(choice: Choice, value: str) -> list[str]:
    """Returns the names in "a", "a,b", "[a, b]" or "none"."""
    if not value.strip():
        raise _no_value(choice)
    if not choice.several:
        return [value]
    if value.strip().lower() == "none":
        return []
    if not value.strip().startswith("["):
        return [name.strip() for name in value.split(",")]
    try:
        names = read_yaml(value)
    except YamlError as error:
        raise InputError(f"{choice.field}: {value} is not valid YAML: {error}") from error
    return [str(name) for name in names]


def _no_value(choice: Choice) -> InputError:
    return InputError(f"{choice.field}: has no value; give one, or leave the field out for its default")


def _check_names(choice: Choice, names: tuple[str, ...]) -> None:
    known = choice.known()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise InputError(f"{choice.field}: {name!r} is unknown; did you mean {', '.join(near)}?")
        if names.count(name) > 1:
            raise InputError(f"{choice.field}: {name} is named twice; name each once")


def _needless(choice: Choice, file: SettingsFile, chosen: tuple[str, ...], by_files: set[str]) -> set[str]:
    """Returns the sections of a file for plug-ins that are not chosen, where nobody will miss them."""
    needless: set[str] = set()
    for key, settings in file.content.items():
        name = section_name(key)
        if name in chosen or name not in choice.known():
            continue
        if name not in by_files and settings != {}:
            raise _unchosen(choice, *_first_setting(str(key), settings), chosen)
        needless.add(name)
    return needless


def _first_setting(key: str, settings: Any) -> tuple[str, Any]:
    if isinstance(settings, dict):
        name, value = next(iter(settings.items()))
        return f"{key}.{name}", value
    return key, settings


def _refuse_unchosen_arguments(choice: Choice, arguments: Sequence[str], chosen: tuple[str, ...]) -> None:
    for key, value in _options(arguments):
        if section_name(key) in choice.known() and section_name(key) not in chosen:
            raise _unchosen(choice, key, value, chosen)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            yield key, value if equals else next(iter(arguments[index + 1 : index + 2]), "")


def _unchosen(choice: Choice, key: str, value: Any, chosen: tuple[str, ...]) -> InputError:
    name = section_name(key)
    remedy = f"add {name} to {choice.field}" if choice.several else f"set {choice.field} to {name}"
    now = ", ".join(chosen) or "empty"
    return InputError(f"{key}: {value!r} is set, but {choice.field} is {now}; {remedy} or leave {key} out")
