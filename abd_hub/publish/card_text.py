"""Text of cards: whatever comes from a record or a stranger's file is shown as text and never as markup."""

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
    """Text that goes into a card as it is. Every other string is escaped on its way into one.

    What Python's operators make of it is an ordinary string again, and is escaped.
    """

    __slots__ = ()

    def fill(self, *values: Any) -> Markdown:
        """Puts values in the place of ``{}``, each escaped unless it is Markdown."""
        return Markdown(str.format(self, *map(escaped, values)))


def escaped(value: Any) -> Markdown:
    """Any value as Markdown that shows it; Markdown itself stays as it is."""
    return value if isinstance(value, Markdown) else as_text(str(value))


def one_line(text: str, longest: int = _LONGEST_NAME) -> str:
    """One line of visible characters, cut at ``longest``."""
    return visible_line(text, longest)


def as_text(text: str, longest: int = _LONGEST_NAME) -> Markdown:
    """Text that Markdown shows as it is: no markup, no HTML, no link, no end of a table cell."""
    shown = one_line(text, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]#!|~$])", r"\\\1", shown)
    # What GitHub-flavoured Markdown turns into links and mentions without any markup.
    return Markdown(re.sub(r"://|@|\bwww\.", _entities, shown, flags=re.IGNORECASE))


def as_code(text: str) -> Markdown:
    """As code where the name is an ordinary one, else as text: a code span cannot be escaped."""
    shown = one_line(text)
    return Markdown(f"`{shown}`") if _TAME.fullmatch(shown) else as_text(text)


def code_or_dash(text: str | None) -> Markdown:
    """As code; a dash where there is none."""
    return as_code(text) if text else Markdown("-")


def as_value(value: Any) -> Markdown:
    """A JSON value, numbers in full; long lists are cut."""
    if isinstance(value, str):
        return as_code(value)
    written = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return as_code(written) if _TAME.fullmatch(written) else as_text(written, longest=400)


def fence(text: str, language: str) -> Markdown:
    """A block of code, which nothing in ``text`` can end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def yaml_block(settings: Mapping[str, Any]) -> Markdown:
    """A configuration as a block of YAML, one value a line; what is not ASCII is written as escapes."""
    plain = json.loads(json.dumps(dict(settings)))
    return fence(yaml.safe_dump(plain, sort_keys=False, width=float("inf")).rstrip("\n"), "yaml")


def markdown_table(rows: Sequence[Sequence[Any]]) -> Markdown:
    """A table; the first row is its head, and each cell is escaped unless it is Markdown."""
    head, *body = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    return Markdown("\n".join([head, "|" + "---|" * len(rows[0]), *body]))


def in_address(file: str) -> Markdown:
    """A file name as the address of a picture."""
    return Markdown(quote(file))


def _entities(match: re.Match[str]) -> str:
    return "".join(char if char.isalnum() else f"&#{ord(char)};" for char in match[0])
