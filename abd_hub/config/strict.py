"""This module makes jsonargparse strict: it refuses unknown keys, null and wrong types in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from abd_hub.config.arguments import SettingsFile, refuse_unknown, section_name
from abd_hub.config.shorthand import with_values
from abd_hub.core.errors import InputError
from abd_hub.core.screen import NO_PAGE, HelpAll, Page, ScreenMixin, value_word
from abd_hub.core.yaml_text import YamlError, read_yaml

T = TypeVar("T")
_EXAMPLES = {"teacher.id": "MODEL", "data.dataset": "NAME"}
"""Words for the values of required options whose types say little."""


class StrictParser(ScreenMixin, ArgumentParser):  # type: ignore[misc]
    """Raises instead of leaving the process, and shows the screen that every command has."""


def make_parser(program: str, description: str, page: Page = NO_PAGE) -> StrictParser:
    """Returns a parser without any option, which reads help from docstrings."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = StrictParser(prog=program, description=description, exit_on_error=False, add_help=False)
    parser.page = page
    return parser


def add_help(group: Any) -> None:
    """Adds the options that show the screen to a group of a parser."""
    group.add_argument("-h", "--help", action="help", help="Shows this screen.")
    group.add_argument("--help-all", "--help_all", action=HelpAll)


def add_section(
    parser: StrictParser, title: str, section: type[Any], name: str | None = None, skip: Iterable[str] = ()
) -> None:
    """Adds the fields of a dataclass as options under a heading.

    Args:
        parser: gets the options.
        title: the heading.
        section: the dataclass; the docstrings of its fields are the help.
        name: prefix of each option before a dot; None for no prefix.
        skip: fields that become no options.
    """
    parser.add_class_arguments(section, name, skip=set(skip))
    parser.groups[name or section.__name__].title = title


def parse(parser: StrictParser, arguments: Sequence[str], files: Sequence[SettingsFile] = ()) -> Namespace:
    """Parses the arguments over the files; returns sections as their dataclasses.

    Args:
        parser: the command's parser.
        arguments: the command line, with underscores in the names of options.
        files: the files of ``--config``; later ones win, and the arguments win over all.

    Raises:
        InputError: a key is unknown (the message names the nearest), a value is missing, null or of the
            wrong type, or the dataclass refuses it.
    """
    arguments = with_values(arguments, _switches(parser))
    refuse_unknown_keys(field_names(parser), arguments, files)
    _refuse_missing(parser, arguments, files)
    try:
        found = parser.parse_args([*(f"--config={file.source}" for file in files), *arguments])
    except ArgumentError as error:
        raise InputError(plain(str(error))) from error
    _refuse_null(parser, found)
    return parser.instantiate(found)


def refuse_unknown_keys(known: set[str], arguments: Sequence[str], files: Sequence[SettingsFile]) -> None:
    """Refuses keys of files and of the command line outside of ``known``.

    Raises:
        InputError: there is one; the message names the nearest that is known.
    """
    for file in files:
        for key in _keys(file.content, known):
            refuse_unknown(key, known, f"in {Path(file.path).name}")
    for argument in arguments:
        if argument.startswith("--"):
            # --field+ adds to a list
            name = argument[2:].partition("=")[0].removesuffix("+")
            refuse_unknown(name, known | {"help", "help_all"}, "on the command line")


def _refuse_missing(parser: StrictParser, arguments: Sequence[str], files: Sequence[SettingsFile]) -> None:
    """Refuses a command that lacks options, and names all of them with an example."""
    if any(argument in ("-h", "--help", "--help-all", "--help_all") for argument in arguments):
        return
    given = {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}
    known = field_names(parser)
    given |= {key for file in files for key in _keys(file.content, known)}
    sections = {section_name(key) for key in given if key not in known}
    missing = [
        action
        for action in parser._actions
        if action.required and action.option_strings and action.dest not in given
        if section_name(action.dest) not in sections
    ]
    if missing:
        names = " and ".join(action.dest for action in missing)
        verb = "is" if len(missing) == 1 else "are"
        words = [_EXAMPLES.get(action.dest, value_word(action)) for action in missing]
        remedy = " ".join(f"--{action.dest} {word}" for action, word in zip(missing, words, strict=True))
        raise InputError(f"{names}: {verb} missing; give {remedy}")


def _switches(parser: StrictParser) -> set[str]:
    """Returns the names of the options that are true or false."""
    return {action.dest for action in parser._actions if getattr(action, "_typehint", None) is bool}


def parse_mapping(name: str, text: str, section: type[T]) -> T:
    """Returns the dataclass that a YAML mapping of its fields describes; messages begin with ``name``.

    Raises:
        InputError: the text is no YAML or no mapping, or ``parse`` would refuse it.
    """
    try:
        content = read_yaml(text)
    except YamlError as error:
        raise InputError(f"{name}: {text} is not valid YAML: {error}") from error

    parser = make_parser(name, "")
    parser.add_class_arguments(section, name)
    for key in content:
        refuse_unknown(f"{name}.{key}", field_names(parser), f"in {name}")

    try:
        return parser.instantiate(parser.parse_object({name: content}))[name]  # type: ignore[no-any-return]
    except ArgumentError as error:
        raise InputError(plain(str(error))) from error


def field_names(parser: ArgumentParser) -> set[str]:
    """Returns the dotted names of the fields, without the groups that hold them."""
    names = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def _keys(content: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Yields dotted keys down to the fields; jsonargparse checks the values of the fields."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if not any(dest.startswith(f"{key}.") for dest in known):
            yield key
        elif isinstance(value, dict):
            yield from _keys(value, known, f"{key}.")
        else:
            raise InputError(
                f"{key}: must hold a mapping of fields, not {value!r}; leave it out for the defaults"
            )


def _refuse_null(parser: ArgumentParser, found: Namespace) -> None:
    """Refuses null where an option does not allow it, because jsonargparse lets it pass for every type."""
    defaults = parser.get_defaults()
    for name in sorted(field_names(parser)):
        if found.get(name) is None and defaults.get(name) is not None:
            raise InputError(f"{name}: has no value; give one, or leave the field out for its default")


def plain(text: str) -> str:
    """Returns jsonargparse's message in one line, with fields and types by their bare names."""
    text = re.sub(r'Parser key "([^"]+)"', r"\1", " ".join(text.split()))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"\b([Aa]) (?=int\b)", r"\1n ", text)
    union = (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.+), NoneType\] .* Given value: "
    )
    return re.sub(union, r"Expected a \1. Got value: ", text)
