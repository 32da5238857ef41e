"""Puts values of a sweep into a word or two, which distinguish runs in tables and names of folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

_LONGEST_LABEL = 80


def label(name: str, value: Any) -> str:
    """Returns a value in a word or two; a number, a bool or an empty value gets the name of its field."""
    field_name = name.rpartition(".")[2]
    if name == "config":
        return str(PurePath(value).with_suffix(""))
    if value is None or value in ([], {}):
        return f"no {field_name}"
    if isinstance(value, bool | int | float):
        return f"{field_name} {str(value).lower()}"
    if isinstance(value, list):
        return "+".join(_word(item) for item in value)
    return _word(value)


def file_name(words: Sequence[str]) -> str:
    """Returns the words as a name for a folder; "run" if no character of theirs may be in a name."""
    cleaned = [re.sub(r"[^A-Za-z0-9._+-]+", "_", word).strip("._-") for word in words]
    return "-".join(word for word in cleaned if word)[:_LONGEST_LABEL].rstrip("._-") or "run"


def _word(value: Any) -> str:
    """Returns the last part of an id or path, or the name of a mapping."""
    if isinstance(value, dict):
        named = next((value[key] for key in ("name", "id") if isinstance(value.get(key), str)), None)
        return _word(named) if named else "+".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, str):
        text = value.removeprefix("local-dir:").removeprefix("hf-hub:").rstrip("/")
        return PurePath(text).stem if text.endswith((".yaml", ".pth", ".pt", ".bin")) else PurePath(text).name
    return str(value)
