"""jsonargparse made strict: unknown keys, null and wrong types are refused in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from abd_hub.core.errors import InputError, one_line
from abd_hub.core.yaml_text import YamlError, read_yaml


def make_parser(program: str, description: str) -> ArgumentParser:
    """Returns a parser that raises instead of leaving the process and reads help from docstrings."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=program, description=description, exit_on_error=False)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parses the arguments; YAML files come first, so that the command line wins over them.

    Raises:
        InputError: an unknown key (with its nearest neighbor), a wrong type or a missing value.
    """
    arguments = _config_first([_underscored(argument) for argument in arguments])
    known = field_names(parser)
    for file in _config_files(arguments):
        for key in _keys(read_settings(file), known):
            refuse_unknown(key, known, f"in {Path(file).name}")
    for argument in arguments:
        if argument.startswith("--"):
            # --field+ adds to a list
            name = argument[2:].partition("=")[0].removesuffix("+")
            refuse_unknown(name, known | {"help"}, "on the command line")
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise InputError(_plain(str(error))) from error


def field_names(parser: ArgumentParser) -> set[str]:
    """Dotted names of the fields, without the groups that hold them."""
    names = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def _underscored(argument: str) -> str:
    """--output-dir and --output_dir are the same."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _config_first(arguments: Sequence[str]) -> list[str]:
    """The command line wins over the file, wherever on it the file is named."""
    files: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            files += [argument, *islice(remaining, 1)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


def _config_files(arguments: Sequence[str]) -> Iterator[str]:
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            yield argument.partition("=")[2]
        elif argument == "--config":
            yield from arguments[index + 1 : index + 2]


def read_settings(file: str | Path, field: str = "config") -> Mapping[str, Any]:
    """The mapping that a YAML file holds; ``field`` is what its name was given as.

    Raises:
        InputError: the file cannot be read, is no YAML, or holds something else.
    """
    try:
        content = read_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{field}: {file} cannot be read: {error}") from error
    except YamlError as error:
        raise InputError(f"{field}: {file} is not valid YAML: {one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise InputError(f"{field}: {file} must hold a mapping of fields, not {type(content).__name__}")
    return content


def _keys(content: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Dotted keys down to the fields; what a field itself holds is jsonargparse's to check."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if not any(dest.startswith(f"{key}.") for dest in known):
            yield key
        elif isinstance(value, dict):
            yield from _keys(value, known, f"{key}.")
        else:
            raise InputError(
                f"{key}: must hold a mapping of fields, not {value!r}; leave it out for defaults"
            )


def refuse_unknown(key: str, known: set[str], place: str) -> None:
    """Refuses a dotted key that is none of ``known``, with its nearest neighbour.

    Raises:
        InputError: naming the key and ``place``, where it stands.
    """
    groups = {dest.rpartition(".")[0] for dest in known} - {""}
    # what follows a field that holds a mapping (student.model_args.depth) is not a field of ours
    parts = key.split(".")
    if any(".".join(parts[:count]) in known for count in range(1, len(parts) + 1)) or key in groups:
        return
    near = difflib.get_close_matches(key, known | groups, n=1, cutoff=0.5)
    raise InputError(f"{key}: unknown key {place}" + (f"; did you mean {near[0]}?" if near else ""))


def refuse_null(parser: ArgumentParser, found: Namespace) -> None:
    """Refuses null where an option does not allow it.

    Raises:
        InputError: naming the option.
    """
    # jsonargparse lets null pass for every type
    defaults = parser.get_defaults()
    for name in sorted(field_names(parser)):
        if found.get(name) is None and defaults.get(name) is not None:
            raise InputError(f"{name}: has no value; give one, or leave the field out for its default")


def _plain(text: str) -> str:
    """jsonargparse's message in one line: fields and types by their bare names."""
    text = re.sub(r'Parser key "([^"]+)"', r"\1", one_line(text))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    union = (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.+), NoneType\] .* Given value: "
    )
    return re.sub(union, r"Expected a \1. Got value: ", text)
