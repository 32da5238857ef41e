"""The classes of data and of a model are matched by their names, or the data are refused.

Case, spaces, underscores and hyphens do not count. ``LABEL_3`` and ``3`` are numbers and no names. Where one
side has numbers only, classes are matched by index, and so they are where no name agrees and the counts are
equal. Every match other than of equal names is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abd_hub.core.errors import InputError, visible_line

_SHOWN = 3
"""So many names stand in a message."""


@dataclass(frozen=True)
class Match:
    """Says which class of the model each class of the data is."""

    places: tuple[int, ...]
    """Holds the model's class for each class of the data; -1 for one without images and without a class."""
    words: str
    """Says how they were matched; empty for equal names in the same order."""

    @property
    def how(self) -> str:
        """Says how they were matched, also for equal names in the same order."""
        return self.words or "by equal names or numbers in the same order"

    def apply(self, labels: Tensor) -> Tensor:
        """Returns (n,) labels of the data as the model's classes."""
        return torch.tensor(self.places)[labels]


def match_labels(names: Sequence[str], labels: Sequence[str], used: Sequence[int]) -> Match:
    """Matches the classes of data with those of a model.

    Args:
        names: of the data's classes, in their order.
        labels: of the model's classes, in the order of its outputs.
        used: the data's classes that have an image.

    Raises:
        InputError: no match is safe.
    """
    if tuple(names) == tuple(labels):
        return Match(tuple(range(len(names))), "")
    data_numbers, model_numbers = _numbers(names), _numbers(labels)
    if data_numbers is None and model_numbers is None:
        return _by_name(names, labels, used)
    return _by_index(names, labels, used, data_numbers, model_numbers)


def _by_name(names: Sequence[str], labels: Sequence[str], used: Sequence[int]) -> Match:
    own = {_folded(label): place for place, label in enumerate(labels)}
    theirs = [_folded(name) for name in names]
    if len(own) < len(labels) or len(set(theirs)) < len(theirs):  # names that differ by case alone
        own, theirs = {label: place for place, label in enumerate(labels)}, list(names)
    places = tuple(own.get(name, -1) for name in theirs)
    unknown = [names[place] for place in used if places[place] < 0]
    if not unknown:
        return Match(places, f"by name: {_pairs(names, labels, places)}")

    known = [place for place in range(len(names)) if places[place] >= 0]
    if len(names) == len(labels) and all(places[place] == place for place in known):
        agree = f"{len(known)} of {len(names)} names agree" if known else "no name agrees"
        pairs = _pairs(names, labels, tuple(range(len(names))))
        return Match(
            tuple(range(len(names))), f"by index, {agree}; check that the order is the same: {pairs}"
        )
    raise InputError(
        f"evaluation.dataset: its classes {_few(unknown)} are none of the model's ({_few(labels)}), and "
        "their number or order differs; set labels to the model's classes in the order of its outputs, in "
        "the words of the data, or use other data"
    )


def _by_index(
    names: Sequence[str],
    labels: Sequence[str],
    used: Sequence[int],
    data_numbers: list[int] | None,
    model_numbers: list[int] | None,
) -> Match:
    """One side has numbers; a data set may count from 1, and a slice may lack the last classes."""
    if data_numbers is not None and model_numbers is not None and set(data_numbers) <= set(model_numbers):
        places = tuple(model_numbers.index(number) for number in data_numbers)
        return Match(places, "" if places == tuple(range(len(labels))) else "by number")

    start = (
        data_numbers[0] if data_numbers and data_numbers == _count_from(data_numbers[0], len(names)) else 0
    )
    shift = 1 if start == 0 and len(names) == len(labels) + 1 and 0 not in used else 0
    count = len(names) - shift
    fits = count == len(labels) or (data_numbers is not None and count < len(labels) and not start)
    in_order = data_numbers is None or data_numbers == _count_from(start, len(names))
    if not fits or not in_order:
        raise InputError(
            f"evaluation.dataset: has {len(names)} classes but the classifier {len(labels)}; use data and a "
            "classifier with the same labels"
        )
    places = tuple(place - shift for place in range(len(names)))
    first = f"number {start + shift} is the first class" if start + shift else "number 0 is the first class"
    return Match(places, f"by index, because one side has numbers only: {first}")


def _numbers(names: Sequence[str]) -> list[int] | None:
    """Returns the numbers where every name is one, such as ``7`` or ``LABEL_7``."""
    found = [re.fullmatch(r"(?:label[_ ])?(\d{1,6})", name.strip(), re.IGNORECASE) for name in names]
    return [int(match[1]) for match in found if match] if all(found) else None


def _count_from(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(visible_line(name, 40)) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _pairs(names: Sequence[str], labels: Sequence[str], places: Sequence[int]) -> str:
    both = [
        f"{visible_line(name, 40)} is {visible_line(labels[place], 40)}"
        for name, place in zip(names, places, strict=True)
        if place >= 0
    ]
    more = f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
    return ", ".join(both[:_SHOWN]) + more
