"""The front matter of a card: its lines, which stay as a person wrote them, and its data.

``huggingface_hub.ModelCard`` reads it too, but writes the YAML anew, without the comments, refuses cards with
results that it does not understand, and sets no bound on aliases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from abd_hub.core.yaml_text import YamlError, read_yaml

TAG = "abd-hub"
"""In the front matter of everything that abd-hub has pushed."""
_FRONT = re.compile(r"---\n(?:(.*?)\n)??---(?:\n|\Z)", re.S)
_KEY = re.compile(r"([A-Za-z_][\w-]*):")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def split_card(card: str) -> tuple[dict[str, str], str]:
    """Splits a card without reading its YAML.

    Returns:
        The lines of the front matter by the key that they belong to, and the text below it. A card without
        front matter is all text.
    """
    found = _FRONT.match(card)
    if not found:
        return {}, card
    if found[1] is None:
        return {}, card[found.end() :]
    lines: dict[str, str] = {}
    key = ""
    for line in found[1].split("\n"):
        begins = _KEY.match(line)
        key = begins[1] if begins else key
        lines[key] = lines.get(key, "") + line + "\n"
    return lines, card[found.end() :]


def join_card(lines: Mapping[str, str], body: str) -> str:
    """The inverse of ``split_card``."""
    return f"---\n{''.join(lines.values())}---\n{body}"


def front_matter(card: str) -> dict[str, Any]:
    """Reads the metadata of a card; empty where it has none that can be read."""
    lines, _ = split_card(card)
    return _mapping("".join(lines.values()))


def tags(card: str) -> list[Any]:
    """Reads the tags in the metadata of a card."""
    found = front_matter(card).get("tags")
    return found if isinstance(found, list) else []


def is_license(name: Any) -> bool:
    """Whether the Hub could know a license by this name."""
    return isinstance(name, str) and _LICENSE_ID.fullmatch(name) is not None


def license_of(card: str | None) -> str | None:
    """Reads the Hub's name of the license in the front matter of a card, also where the rest is no YAML."""
    lines, _ = split_card(card or "")
    found = _mapping(lines.get("license", "")).get("license")
    return found if is_license(found) else None


def _mapping(text: str) -> dict[str, Any]:
    try:
        data = read_yaml(text)
    except YamlError:
        return {}
    return data if isinstance(data, dict) else {}
