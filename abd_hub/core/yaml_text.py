"""YAML that may be a stranger's: no tag runs anything, and whatever is wrong with it is one error."""

from __future__ import annotations

from typing import Any

import yaml

from abd_hub.core.errors import one_line

MOST_VALUES = 1_000_000
"""Values in one text, repeats through aliases counted: nine aliases in nine levels make 387 million of 600
characters."""


class YamlError(ValueError):
    """A text is no YAML, or holds what cannot be a configuration; one line."""


def read_yaml(text: str) -> Any:
    """The value that a YAML text describes.

    Raises:
        YamlError: it is not valid, has tags that are not YAML's own, values that do not fit their tags, is
            nested too deeply, refers to itself, or grows beyond ``MOST_VALUES`` through aliases.
    """
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlError(one_line(str(error))) from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # What PyYAML lets through for values that do not fit their tags: !!int '', 2024-13-45.
        raise YamlError(f"a value does not fit its type ({type(error).__name__})") from error
    try:
        _count(found, {})
    except RecursionError as error:
        raise YamlError("it is nested too deeply") from error
    return found


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are below, each alias followed; 0 marks those that are being counted."""
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
        raise YamlError(f"its aliases make more than {MOST_VALUES:,} values of it")
    known[id(value)] = total
    return total
