"""This module finds a user's choice of plug-ins before any parser: only their settings become options."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abd_hub.config.arguments import Given, SettingsFile, option_pairs, section_name
from abd_hub.core.errors import InputError, near_names
from abd_hub.core.yaml_text import YamlError, read_yaml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Describes a field that names plug-ins; their settings stand in sections of the same names."""

    field: str
    known: Callable[[], Sequence[str]]
    """Function that returns all valid names."""
    default: tuple[str, ...]
    several: bool = False
    """Whether the field holds a list of names rather than one."""
    implied: bool = False
    """Whether settings of one plug-in choose it where nobody states the field."""


@dataclass(frozen=True)
class Chosen:
    """Holds the names of every choice, and the files and arguments for the parser."""

    names: Mapping[str, tuple[str, ...]]
    """The names by the field of their choice."""
    files: tuple[SettingsFile, ...]
    """The files without the sections that the command line has made needless."""
    arguments: tuple[str, ...]
    """The command line, with each choice written in one way."""

    def states(self, key: str) -> bool:
        """Returns whether a file or the command line has the dotted field."""
        section, _, field = key.partition(".")
        in_files = any(
            field in (file.content.get(section) or {}) or key in file.content for file in self.files
        )
        return in_files or any(name == key for name, _ in _options(self.arguments))


def choose(given: Given, choices: Sequence[Choice]) -> Chosen:
    """Returns the choices of the files and of the command line, which wins over the files.

    A stated choice switches all other plug-ins off. A file's settings of these are left out, and one line
    says so, unless the command line replaces a choice of the file itself. Typed settings of a plug-in are
    left out in the same way where the command line itself states the choice.

    Raises:
        InputError: a choice has no value, the wrong type, an unknown name or a name twice. Or there are
            settings of a plug-in that nobody has switched off.
    """
    names: dict[str, tuple[str, ...]] = {}
    rest: list[str] = list(given.arguments)
    needless: set[str] = set()
    for choice in choices:
        of_files = [_names_in_file(choice, file) for file in given.files if choice.field in file.content]
        typed, rest, is_typed = _typed(choice, rest)
        stated = bool(of_files) or is_typed
        default = choice.default if stated or not choice.implied else _implied(choice, given.files, rest)
        chosen = typed(of_files[-1] if of_files else default)
        _check_names(choice, chosen)
        names[choice.field] = chosen

        replaced = set().union(*of_files) if is_typed else set()
        in_files, on_line, rest = _switched_off(choice, given.files, rest, chosen)
        lost = ([] if stated else in_files) + ([] if is_typed else on_line)
        if lost:
            raise _unchosen(choice, *lost[0], chosen)
        missed = [pair for pair in in_files if section_name(pair[0]) not in replaced]
        _tell(choice, [key for key, _ in (*missed, *on_line)], chosen)
        needless |= _sections(choice, given.files) - set(chosen)

    files = tuple(file.without(needless) for file in given.files)
    written = [_written(choice, names[choice.field]) for choice in choices]
    return Chosen(names, files, (*rest, *written))


def _implied(choice: Choice, files: Sequence[SettingsFile], arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the one plug-in that has settings, or else the default.

    Raises:
        InputError: several have settings.
    """
    typed = {section_name(key) for key, _ in _options(arguments)}
    found = sorted({*_sections(choice, files, empty=False), *typed.intersection(choice.known())})
    if len(found) > 1:
        raise InputError(
            f"{choice.field}: settings of {' and '.join(found)} are given; choose one with "
            f"--{choice.field} {found[0]}"
        )
    return tuple(found) or choice.default


def _sections(choice: Choice, files: Sequence[SettingsFile], *, empty: bool = True) -> set[str]:
    """Returns the plug-ins of which a file has settings, with ``empty`` also those without any field."""
    content = [(section_name(key), value) for file in files for key, value in file.content.items()]
    return {name for name, value in content if name in choice.known() and (empty or value != {})}


def _switched_off(
    choice: Choice, files: Sequence[SettingsFile], arguments: Sequence[str], chosen: tuple[str, ...]
) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]], list[str]]:
    """Returns settings of plug-ins that are not chosen, of files and typed ones, and the other arguments."""
    others = set(choice.known()) - set(chosen)
    in_files = [
        _first_setting(str(key), settings)
        for file in files
        for key, settings in file.content.items()
        if section_name(key) in others and settings != {}
    ]
    typed = {key: value for key, value in _options(arguments) if section_name(key) in others}
    pairs = option_pairs(arguments, set(typed))
    return in_files, list(typed.items()), [value for key, value in pairs if key is None]


def _tell(choice: Choice, keys: Sequence[str], chosen: tuple[str, ...]) -> None:
    names = ", ".join(dict.fromkeys(section_name(key) for key in keys))
    now = ", ".join(chosen) or "none"
    if not names:
        return
    logger.warning("settings of %s are ignored, because %s is %s", names, choice.field, now)


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
) -> tuple[Callable[[tuple[str, ...]], tuple[str, ...]], list[str], bool]:
    """Returns a function that applies the command line to the files' names, and the other arguments.

    The last value says whether the command line has the field at all.
    """
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
    return (lambda before: tuple(names) if replaces else (*before, *names)), others, bool(names) or replaces


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
            raise InputError(
                f"{choice.field}: {name!r} is unknown; {near_names(name, known, 'abd-hub list')}"
            )
        if names.count(name) > 1:
            raise InputError(f"{choice.field}: {name} is named twice; name each once")


def _first_setting(key: str, settings: Any) -> tuple[str, Any]:
    if isinstance(settings, dict):
        name, value = next(iter(settings.items()))
        return f"{key}.{name}", value
    return key, settings


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
