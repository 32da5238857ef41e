"""This module escapes values of records and of strangers' files, so that a card shows them as plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import yaml

from abd_hub.core.errors import visible_line

_TAME = re.compile(r"[A-Za-z0-9_./@:+=-]+")
_LONGEST_NAME = 80


class Markdown(str):
    """Marks text that goes into a card unchanged; every other string is escaped.

    The results of Python's string operators are ordinary strings, so they are escaped again.
    """

    __slots__ = ()

    def fill(self, *values: Any) -> Markdown:
        """Replaces each ``{}`` by a value, escaped unless it is Markdown."""
        return Markdown(str.format(self, *map(escaped, values)))


def escaped(value: Any) -> Markdown:
    """Returns Markdown that shows any value as text; a Markdown value is unchanged."""
    return value if isinstance(value, Markdown) else as_text(str(value))


def one_line(text: str, longest: int = _LONGEST_NAME) -> str:
    """Returns one line of visible characters, cut at ``longest``."""
    return visible_line(text, longest)


def as_text(text: str, longest: int = _LONGEST_NAME) -> Markdown:
    """Escapes text so that it holds no markup, no HTML, no link and no end of a table cell."""
    shown = one_line(text, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]#!|~$])", r"\\\1", shown)
    # GitHub-flavored Markdown turns these into links and mentions without any markup.
    return Markdown(re.sub(r"://|@|\bwww\.", _entities, shown, flags=re.IGNORECASE))


def as_code(text: str) -> Markdown:
    """Shows an ordinary name as code and any other name as text, because a code span cannot be escaped."""
    shown = one_line(text)
    return Markdown(f"`{shown}`") if _TAME.fullmatch(shown) else as_text(text)


def code_or_dash(text: str | None) -> Markdown:
    """Shows a name as code, and a missing name as a dash."""
    return as_code(text) if text else Markdown("-")


def as_value(value: Any) -> Markdown:
    """Shows a JSON value, with numbers in full and long lists cut."""
    if isinstance(value, str):
        return as_code(value)
    written = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return as_code(written) if _TAME.fullmatch(written) else as_text(written, longest=400)


def as_fact(value: Any) -> Markdown:
    """Shows a JSON value like ``as_value``, with four significant digits of each number."""
    return as_value(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return {name: _rounded(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def fence(text: str, language: str) -> Markdown:
    """Returns a block of code, which nothing in ``text`` can end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def yaml_block(settings: Mapping[str, Any]) -> Markdown:
    """Returns a configuration as a block of YAML, one value a line, with escapes for non-ASCII characters."""
    plain = json.loads(json.dumps(dict(settings)))
    return fence(yaml.safe_dump(plain, sort_keys=False, width=float("inf")).rstrip("\n"), "yaml")


def markdown_table(rows: Sequence[Sequence[Any]]) -> Markdown:
    """Returns a table whose first row is the head; each cell is escaped unless it is Markdown."""
    head, *body = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    return Markdown("\n".join([head, "|" + "---|" * len(rows[0]), *body]))


def in_address(file: str) -> Markdown:
    """Quotes a file name for the address of a picture."""
    return Markdown(quote(file))


def _entities(match: re.Match[str]) -> str:
    return "".join(char if char.isalnum() else f"&#{ord(char)};" for char in match[0])
