"""The parts of a card that belong to the user, and the seal that tells whether anything else was edited.

A card ends with the hash of what was made. The user's own are the lines between two marks, the license, and
every key of the front matter that is not made here (``language``, ``extra_gated_prompt``, ...). The hash
leaves these out, and a new card takes them over.
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
"""Keys of the front matter that are made here."""


def sealed(front: str, body: str) -> str:
    """The whole README.md: front matter, the text with its two marks, and the seal."""
    text = f"---\n{front.rstrip()}\n---\n\n{body.rstrip()}\n\n"
    return f"{text}{_SEAL.format(_digest(_made(text)))}\n"


def is_untouched(card: str) -> bool:
    """Whether a card is as it was made, but for the user's own text."""
    bare = with_free_text(card, "")
    seal = _SEALED.search(bare) if bare is not None else None
    return bare is not None and seal is not None and _digest(_made(bare[: seal.start()])) == seal[1]


def own_metadata(card: str) -> dict[str, str]:
    """What the user has added to the front matter: the lines of each key that is not written here.

    The license is not among them.
    """
    lines, _ = split_card(card)
    return {key: text for key, text in lines.items() if key not in (*_MADE, "license")}


def with_own_metadata(card: str, own: Mapping[str, str]) -> str:
    """The card with these keys at the end of its front matter; those that it has stay as they are."""
    lines, body = split_card(card)
    return join_card(lines | {key: text for key, text in own.items() if key not in lines}, body)


def _made(card: str) -> str:
    """The card without what is the user's in its front matter."""
    lines, body = split_card(card)
    # Cards that are out in the world are sealed with this spelling: it must not change.
    return "".join([*(text for key, text in lines.items() if key in _MADE), "---\n" if lines else "", body])


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
