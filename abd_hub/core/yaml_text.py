"""This module reads YAML that may be a stranger's: no tag runs code, and every fault is one error."""

from __future__ import annotations

from typing import Any

import yaml

from abd_hub.core.errors import one_line

MOST_VALUES = 1_000_000
"""Largest number of values in one text. Repeats through aliases count, because nine aliases in nine levels
turn 600 characters into 387 million values."""

MOST_CHARACTERS = 2_000_000
"""Longest text, which takes up to 20 seconds; the names of 21,841 classes take 1 million characters."""


class YamlError(ValueError):
    """Reports in one line that a text is no YAML, or cannot be a configuration."""


def read_yaml(text: str) -> Any:
    """Returns the value that a YAML text describes.

    Raises:
        YamlError: the text is not valid, has tags that are not YAML's own, or values that do not fit their
            tags. Or it is nested too deeply, refers to itself, or has more than ``MOST_CHARACTERS`` or
            ``MOST_VALUES``.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlError(one_line(str(error))) from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # PyYAML lets these through for values that do not fit their tags, such as !!int '' or 2024-13-45.
        raise YamlError(f"a value does not fit its type ({type(error).__name__})") from error

    try:
        _count(value, {})
    except RecursionError as error:
        raise YamlError("it is nested too deeply") from error
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """Returns the number of values below, with aliases followed; 0 marks values whose count is unfinished."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) in known:
        if not known[id(value)]:
            raise YamlError("it refers to itself")
        return known[id(value)]

    known[id(value)] = 0
    inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    total = 1 + sum(_count(item, known) for item in inside)
    if total > MOST_VALUES:
        raise YamlError(f"its aliases make more than {MOST_VALUES:,} values")
    known[id(value)] = total
    return total
