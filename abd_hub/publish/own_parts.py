"""This module separates the user's own parts of a card from the made parts, and seals the made parts.

The user owns the lines between two marks, the license, and every key of the front matter that is not made
here (``language``, ``extra_gated_prompt``, ...). A new card keeps these parts. The card ends with the hash of
all other parts, which shows whether somebody has edited them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from abd_hub.publish.front_matter import join_card, split_card

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
"""Lists the keys of the front matter that are made here."""


def sealed(front: str, body: str) -> str:
    """Returns the whole README.md: front matter, the text with its two marks, and the seal."""
    text = f"---\n{front.rstrip()}\n---\n\n{body.rstrip()}\n\n"
    return f"{text}{_SEAL.format(_digest(_made(text)))}\n"


def is_untouched(card: str) -> bool:
    """Returns whether all parts of a card except the user's own are unchanged."""
    bare = with_free_text(card, "")
    seal = _SEALED.search(bare) if bare is not None else None
    return bare is not None and seal is not None and _digest(_made(bare[: seal.start()])) == seal[1]


def own_metadata(card: str) -> dict[str, str]:
    """Returns the lines of the keys that the user has added to the front matter, without the license."""
    lines, _ = split_card(card)
    return {key: text for key, text in lines.items() if key not in (*_MADE, "license")}


def with_own_metadata(card: str, own: Mapping[str, str]) -> str:
    """Returns the card with these keys at the end of its front matter; keys that it has are unchanged."""
    lines, body = split_card(card)
    return join_card(lines | {key: text for key, text in own.items() if key not in lines}, body)


def _made(card: str) -> str:
    """Returns the card without the user's keys in its front matter."""
    lines, body = split_card(card)
    # Published cards are sealed with this spelling, so it must not change.
    return "".join([*(text for key, text in lines.items() if key in _MADE), "---\n" if lines else "", body])


def free_text(card: str) -> str | None:
    """Returns the user's own text; None where its two marks are missing or in the wrong order."""
    place = _free_place(card.split("\n"))
    return None if place is None else "\n".join(card.split("\n")[place[0] + 1 : place[1]])


def with_free_text(card: str, text: str) -> str | None:
    """Returns the card with another own text; None where its two marks are missing or in the wrong order."""
    lines = card.split("\n")
    place = _free_place(lines)
    if place is None:
        return None
    return "\n".join([*lines[: place[0] + 1], *([text] if text else []), *lines[place[1] :]])


def _free_place(lines: Sequence[str]) -> tuple[int, int] | None:
    # Only whole lines count: in a block of YAML a stranger's string may contain a mark, but never as a line.
    if lines.count(FREE_BEGINS) != 1 or lines.count(FREE_ENDS) != 1:
        return None
    begins, ends = lines.index(FREE_BEGINS), lines.index(FREE_ENDS)
    return (begins, ends) if begins < ends else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
