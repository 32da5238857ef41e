"""Which columns of a data set hold the images and the labels, and how the labels are called."""

from __future__ import annotations

import re
from typing import Any

from abd_hub.core.errors import InputError

USUAL = "label"
"""A column of this name is never passed over for another one."""
MAX_LABEL = 100_000
"""Largest possible label; an integer column with larger numbers holds identifiers."""
LONGEST_NAME = 1000
"""Characters of a label's name."""


def image_column_of(features: Any, wanted: str | None) -> str:
    """Returns the wanted column of images, or the only one.

    Raises:
        InputError: no column or several could be meant, or the column holds no images.
    """
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    return _choose("image", images, list(features), wanted)


def label_column_of(features: Any, wanted: str | None) -> str:
    """Returns the wanted column, or ``label``, or the only ClassLabel column, or the only integer column.

    Raises:
        InputError: no column or several could be meant, or the column holds no labels.
    """
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    integers = [name for name in features if re.match(r"u?int\d", _kind(features, name))]
    texts = [name for name in features if is_text(features, name)]
    chosen = USUAL if wanted is None and USUAL in features else wanted
    if chosen is not None:
        return _choose("label", list(dict.fromkeys(classes + integers + texts)), list(features), chosen)
    return _choose("label", classes or integers, list(features), None)


def is_text(features: Any, name: str) -> bool:
    """Returns whether a column holds texts; as labels they are the names of the classes."""
    return _kind(features, name) in ("string", "large_string")


def _kind(features: Any, name: str) -> str:
    return str(getattr(features[name], "dtype", ""))


def _choose(what: str, candidates: list[str], columns: list[str], wanted: str | None) -> str:
    """Returns the wanted candidate, or the only one; ``what`` is image or label, for the messages."""
    if wanted is None and len(candidates) == 1:
        return candidates[0]
    if wanted in candidates:
        return wanted

    if not candidates:
        raise InputError(f"{what}_column: no column holds {what}s; the columns are {', '.join(columns)}")
    if wanted is not None:
        raise InputError(f"{what}_column {wanted!r} holds no {what}s; use one of {', '.join(candidates)}")
    raise InputError(f"{what}_column: several columns hold {what}s; use one of {', '.join(candidates)}")


def names_of_labels(dataset: Any, column: str) -> tuple[str, ...]:
    """Returns the label names.

    Of a text column these are the texts of the whole split in their order. Of an integer column they are the
    numbers up to the largest in the whole split.

    Raises:
        InputError: there are too many classes, or a name is too long or no text.
    """
    names = getattr(dataset.features[column], "names", None)
    if names is None and not is_text(dataset.features, column):
        return _numbers(dataset, column)
    if names is None:
        names = sorted({value for value in dataset[column] if value is not None})

    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InputError(
            f"label_column {column!r} names a class {wrong[0]!r:.80}, which is no text; use other data"
        )
    if len(names) > MAX_LABEL:
        raise InputError(
            f"label_column {column!r} names {len(names):,} classes, and {MAX_LABEL:,} are the most; "
            "use other data"
        )
    if max(map(len, names), default=0) > LONGEST_NAME:
        raise InputError(
            f"label_column {column!r} has a name of more than {LONGEST_NAME:,} characters; shorten it"
        )
    return tuple(names)


def _numbers(dataset: Any, column: str) -> tuple[str, ...]:
    largest = max((value for value in dataset[column] if value is not None), default=0)
    if largest > MAX_LABEL:
        raise InputError(
            f"label_column {column!r} goes up to {largest}, so it holds no labels; use another label_column"
        )
    return tuple(str(value) for value in range(largest + 1))
