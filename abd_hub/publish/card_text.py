"""Text of cards: names of strangers shown as text, tables, and the part that belongs to the user.

A card ends with the hash of what was made, so that it can be told later whether somebody has changed it. Left
out of the hash, as they are the user's own and are kept, are the lines between two marks, and in the front
matter the licence and every key that is not written here (``language``, ``extra_gated_prompt``, ...).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import yaml

from abd_hub.core.errors import visible_line

FREE_BEGINS = "<!-- Your own text goes below this line. abd-hub keeps it. -->"
FREE_ENDS = "<!-- Your own text ends above this line. -->"
_SEAL = "<!-- Made by abd-hub; sha256 of all but your own text: {} -->"
_SEALED = re.compile(re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{64})") + r"\n*\Z")
_MADE = (
    "library_name",
    "pipeline_tag",
    "tags",
    "base_model",
    "datasets",
    "model-index",
    "annotations_creators",
    "task_categories",
    "size_categories",
)
"""Keys of the front matter that are made here."""
_KEY = re.compile(r"([A-Za-z_][\w-]*):")
_TAME = re.compile(r"[A-Za-z0-9_./@:+=-]+")
_LONGEST_NAME = 80
_LABELS_SHOWN = 20


def one_line(text: str, longest: int = _LONGEST_NAME) -> str:
    """One line of visible characters, cut at ``longest``."""
    return visible_line(text, longest)


def as_text(text: str, longest: int = _LONGEST_NAME) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no link, no end of a table cell."""
    shown = one_line(text, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]#!|~$])", r"\\\1", shown)
    # What GitHub-flavoured Markdown turns into links and mentions without any markup.
    return re.sub(r"://|@|\bwww\.", _entities, shown, flags=re.IGNORECASE)


def as_code(text: str) -> str:
    """As code where the name is an ordinary one, else as text: a code span cannot be escaped."""
    shown = one_line(text)
    return f"`{shown}`" if _TAME.fullmatch(shown) else as_text(text)


def as_value(value: Any) -> str:
    """A JSON value, numbers in full; long lists are cut."""
    if isinstance(value, str):
        return as_code(value)
    written = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return as_code(written) if _TAME.fullmatch(written) else as_text(written, longest=400)


def fence(text: str, language: str) -> str:
    """A block of code, which nothing in ``text`` can end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def yaml_block(settings: Mapping[str, Any]) -> str:
    """A configuration as a block of YAML, one value a line; what is not ASCII is written as escapes."""
    plain = json.loads(json.dumps(dict(settings)))
    return fence(yaml.safe_dump(plain, sort_keys=False, width=float("inf")).rstrip("\n"), "yaml")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def pictures_section(pictures: Sequence[tuple[str, str]]) -> str:
    """The pictures with their captions."""
    blocks = []
    for file, caption in pictures:
        shown = as_text(caption, longest=300)
        blocks.append(f"![{shown}]({quote(file)})\n\n{shown}")
    return "\n\n".join(blocks)


def labels_line(labels: Sequence[str]) -> str:
    """The first label names, in order."""
    shown = ", ".join(as_text(label) for label in labels[:_LABELS_SHOWN])
    more = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return f"{len(labels)} classes, from label 0 on: {shown}{more}."


def assemble(front: str, sections: Sequence[str]) -> str:
    """The whole README.md: front matter, the first section, room for the user's text, the rest, the seal."""
    first, second, *rest = sections
    body = "\n\n".join([first, second, f"{FREE_BEGINS}\n{FREE_ENDS}", *rest])
    text = f"---\n{front.rstrip()}\n---\n\n{body}\n\n"
    return f"{text}{_SEAL.format(_digest(_made(text)))}\n"


def is_untouched(card: str) -> bool:
    """Whether a card is as it was made, but for the user's own text."""
    bare = with_free_text(card, "")
    seal = _SEALED.search(bare) if bare is not None else None
    return bare is not None and seal is not None and _digest(_made(bare[: seal.start()])) == seal[1]


def own_metadata(card: str) -> dict[str, str]:
    """What the user has added to the front matter: the lines of each key that is not written here.

    The licence is not among them.
    """
    front, _ = _split(card)
    return {key: lines for key, lines in front.items() if key not in (*_MADE, "license")}


def with_own_metadata(card: str, own: Mapping[str, str]) -> str:
    """The card with these keys at the end of its front matter; those that it has stay as they are."""
    front, body = _split(card)
    lines = front | {key: text for key, text in own.items() if key not in front}
    return f"---\n{''.join(lines.values())}{body}"


def _made(card: str) -> str:
    """The card without what is the user's in its front matter."""
    front, body = _split(card)
    return "".join([*(lines for key, lines in front.items() if key in _MADE), body])


def _split(card: str) -> tuple[dict[str, str], str]:
    """The lines of the front matter by their key, and the card from the line that ends it on."""
    if not card.startswith("---\n") or "\n---\n" not in card[3:]:
        return {}, card
    front, _, body = card[4:].partition("\n---\n")
    found: dict[str, str] = {}
    key = ""
    for line in front.split("\n"):
        begins = _KEY.match(line)
        key = begins[1] if begins else key
        found[key] = found.get(key, "") + line + "\n"
    return found, f"---\n{body}"


def free_text(card: str) -> str | None:
    """The user's own text; None where its two marks are not there in order."""
    place = _free_place(card.split("\n"))
    return None if place is None else "\n".join(card.split("\n")[place[0] + 1 : place[1]])


def with_free_text(card: str, text: str) -> str | None:
    """The card with another text of the user's; None where the marks for it are not there in order."""
    lines = card.split("\n")
    place = _free_place(lines)
    if place is None:
        return None
    return "\n".join([*lines[: place[0] + 1], *([text] if text else []), *lines[place[1] :]])


def _free_place(lines: Sequence[str]) -> tuple[int, int] | None:
    # Whole lines only: in a block of YAML the marks can be part of a stranger's string, never a line.
    if lines.count(FREE_BEGINS) != 1 or lines.count(FREE_ENDS) != 1:
        return None
    begins, ends = lines.index(FREE_BEGINS), lines.index(FREE_ENDS)
    return (begins, ends) if begins < ends else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _entities(match: re.Match[str]) -> str:
    return "".join(char if char.isalnum() else f"&#{ord(char)};" for char in match[0])
