"""This module writes the help of every command: options in groups, with a sentence and a default for each.

argparse and jsonargparse both describe an option as an action. This module turns actions into text, so that
commands of both kinds have the same screen. It imports nothing heavy.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from abd_hub.core.errors import InputError

WIDEST = 110
"""Columns of the widest page, even on a wider terminal."""
_INDENT = 2
_LEAST_TEXT = 20
"""Columns that a text gets beside a long default, which then leaves the line."""
_WIDEST_LABEL = 42
"""Columns of the widest label; the text of a longer one begins on the next line."""
LONGEST = 120
"""Lines of the longest page. If it had more, each option gets one line, and ``--help-all`` has the rest."""
_WORDS = {bool: "true|false", int: "INT", float: "NUMBER", str: "TEXT", list: "LIST", tuple: "LIST"}


@dataclass(frozen=True)
class Page:
    """Holds a help screen's usage and examples, and the names of rare options."""

    usage: tuple[str, ...]
    """One or two lines, each a way to write the command."""
    examples: tuple[str, ...] = ()
    """Commands that can be copied."""
    rare: frozenset[str] = frozenset()
    """Destinations that only ``--help-all`` shows."""


NO_PAGE = Page(usage=())


class ScreenMixin:
    """Gives a parser this screen; a class lists it before the class of the parser."""

    page = NO_PAGE

    def format_help(self, *_: Any) -> str:
        """Returns the help, without rare options; where there are any, each option gets one sentence."""
        return format_page(
            typing.cast(argparse.ArgumentParser, self), self.page, everything=not self.page.rare
        )


class CommandParser(ScreenMixin, argparse.ArgumentParser):
    """Parses a few options without YAML; each fault is one ``InputError``."""

    def __init__(self, command: str, summary: str, usage: str, *examples: str) -> None:
        super().__init__(prog=f"abd-hub {command}", description=summary, add_help=False, allow_abbrev=False)
        self.page = Page(usage=(usage,), examples=examples)
        self._positionals.title = "Arguments"
        self._optionals.title = "Options"

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Returns the options; ``--a_b`` and ``--a-b`` are the same.

        Raises:
            InputError: an option is unknown, or a value is missing or wrong.
        """
        self.add_argument("-h", "--help", action="help", help="Shows this screen.")
        return self.parse_args([_hyphenated(argument) for argument in arguments])

    def error(self, message: str) -> NoReturn:
        """Raises an ``InputError`` with argparse's message."""
        command = self.prog.removeprefix("abd-hub ")
        raise InputError(f"{command}: {message}; abd-hub {command} --help lists the options")


class HelpAll(argparse.Action):
    """Prints the whole page for ``--help-all`` and leaves the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs=0,
            default=argparse.SUPPRESS,
            help="Shows all options, each with its whole help.",
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints the page and exits."""
        assert isinstance(parser, ScreenMixin)
        print(format_page(parser, parser.page, everything=True), end="")
        parser.exit()


def format_page(parser: argparse.ArgumentParser, page: Page, *, everything: bool) -> str:
    """Returns the help of a parser as text, as wide as the terminal up to ``WIDEST`` columns.

    Args:
        parser: its groups become the headings.
        page: usage, examples, and the rare options.
        everything: shows the rare options too, and each help in full instead of its first sentence.
    """
    whole = _lines(parser, page, everything=everything, cut=False)
    fits = everything or len(whole) <= LONGEST
    return "\n".join(whole if fits else _lines(parser, page, everything=False, cut=True)) + "\n"


def _lines(parser: argparse.ArgumentParser, page: Page, *, everything: bool, cut: bool) -> list[str]:
    width = min(WIDEST, shutil.get_terminal_size().columns)
    lines = [f"{'usage:' if index == 0 else '      '} {line}" for index, line in enumerate(page.usage)]
    lines += ["", *textwrap.wrap(parser.description or "", width)]

    for group in parser._action_groups:
        shown = [action for action in _visible(parser, group) if everything or action.dest not in page.rare]
        if shown:
            lines += ["", f"{group.title}:", *_options(shown, width, everything, cut)]

    if not everything:
        lines += ["", f"{parser.prog} --help-all shows the less common options too, and all texts in full."]
    if page.examples:
        lines += ["", "examples:", *(f"{' ' * _INDENT}{example}" for example in page.examples)]
    return lines


def _visible(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[argparse.Action]:
    """Yields the options of a group, except those for a whole section (``--teacher FILE``)."""
    names = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    for action in group._group_actions:
        is_section = any(name.startswith(f"{action.dest}.") for name in names)
        if action.help != argparse.SUPPRESS and action.dest in names and not is_section:
            yield action


def _options(actions: Sequence[argparse.Action], width: int, everything: bool, cut: bool) -> Iterator[str]:
    """Yields the lines for the options of one group, with aligned texts."""
    labels = [" " * _INDENT + _label(action) for action in actions]
    column = min(max(map(len, labels)), _WIDEST_LABEL + (10 if cut else 0)) + 2

    for label, action in zip(labels, actions, strict=True):
        text = " ".join((action.help or "").replace("%%", "%").replace("``", "").split())
        text = text if everything else _first_sentence(text)
        default = _default(action)

        space = max(width - column, 30)
        short = textwrap.shorten(text, max(space - len(default), _LEAST_TEXT), placeholder=" ...") + default
        lines = [short] if cut else textwrap.wrap(text + default, space, break_on_hyphens=False)

        if len(label) > column - 2:
            yield label
        else:
            yield label.ljust(column) + (lines or [""]).pop(0)
        yield from (" " * column + line for line in lines)


def _label(action: argparse.Action) -> str:
    word = value_word(action)
    if not action.option_strings:
        return word
    names = [name for name in action.option_strings if not name.endswith(("+", "_all"))]
    return f"{', '.join(names)} {word}".rstrip()


def value_word(action: argparse.Action) -> str:
    """Returns the word for the value of an option."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, str):
        # jsonargparse writes {true,false} and [ITEM,...].
        return "LIST" if action.metavar.startswith("[") else action.metavar.strip("{}").replace(",", "|")
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    hint = getattr(action, "_typehint", action.type)
    return _word_of_type(hint) if action.option_strings else action.dest.upper()


def _word_of_type(hint: Any) -> str:
    """Returns a word for the values of a type, such as INT, a|b for a Literal, or TEXT for unknown types."""
    if typing.get_origin(hint) is typing.Annotated:
        return _word_of_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return "|".join(dict.fromkeys(map(_word_of_type, kinds)))

    plain = typing.get_origin(hint) or hint
    if plain is dict or hasattr(plain, "__dataclass_fields__"):
        return "MAPPING"
    return _WORDS.get(plain, "TEXT")


def _first_sentence(text: str) -> str:
    """Returns the text up to the first full stop or semicolon outside of parentheses, with a full stop."""
    depth = 0
    for place, (letter, following) in enumerate(zip(text, text[1:] + " ", strict=True)):
        depth += (letter in "([") - (letter in ")]")
        if letter in ".;" and following == " " and depth == 0:
            return f"{text[:place]}."
    return text


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return " (required)"
    value = action.default
    if value is argparse.SUPPRESS or value is None or value in ([], (), {}, "") or action.nargs == 0:
        return ""
    if isinstance(value, bool):
        return f" [{str(value).lower()}]"
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return f" [{shown}]"


def _hyphenated(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
