"""This module reads the front matter of a card: its data, and its lines exactly as a person wrote them.

``huggingface_hub.ModelCard`` reads front matter too, but writes the YAML anew, without the comments. It
refuses results in an unknown form and sets no bound on aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from abd_hub.core.yaml_text import YamlError, read_yaml

TAG = "abd-hub"
"""Marks the front matter of every card that abd-hub pushes."""
_FRONT = re.compile(r"---\n(?:(.*?)\n)??---(?:\n|\Z)", re.S)
_KEY = re.compile(r"([A-Za-z_][\w-]*):")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def split_card(card: str) -> tuple[dict[str, str], str]:
    """Splits a card without reading its YAML.

    Returns:
        The lines of the front matter by their key, and the text below it. A card without front matter is all
        text.
    """
    front = _FRONT.match(card)
    if not front:
        return {}, card
    if front[1] is None:
        return {}, card[front.end() :]

    lines: dict[str, str] = {}
    key = ""
    for line in front[1].split("\n"):
        new_key = _KEY.match(line)
        key = new_key[1] if new_key else key
        lines[key] = lines.get(key, "") + line + "\n"
    return lines, card[front.end() :]


def join_card(lines: Mapping[str, str], body: str) -> str:
    """Joins the two results of ``split_card`` to a card."""
    return f"---\n{''.join(lines.values())}---\n{body}"


def front_matter(card: str) -> dict[str, Any]:
    """Reads the metadata of a card; returns {} where the card has none that can be read."""
    lines, _ = split_card(card)
    return _mapping("".join(lines.values()))


def tags(card: str) -> list[Any]:
    """Reads the tags in the metadata of a card."""
    listed = front_matter(card).get("tags")
    return listed if isinstance(listed, list) else []


def is_license(name: Any) -> bool:
    """Returns whether a name has the form of the Hub's license names."""
    return isinstance(name, str) and _LICENSE_ID.fullmatch(name) is not None


def license_of(card: str | None) -> str | None:
    """Reads the Hub's name of the license in the front matter of a card, even if the rest is no YAML."""
    lines, _ = split_card(card or "")
    name = _mapping(lines.get("license", "")).get("license")
    return name if is_license(name) else None


def _mapping(text: str) -> dict[str, Any]:
    try:
        data = read_yaml(text)
    except YamlError:
        return {}
    return data if isinstance(data, dict) else {}
