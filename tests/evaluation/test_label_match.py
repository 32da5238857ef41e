"""Classes of data and model are matched by name, or by index where that is said, or the data are refused."""

from __future__ import annotations

import pytest
import torch

from abd_hub.core.errors import InputError
from abd_hub.evaluation.label_match import match_labels

PETS = ("cat", "dog", "eel")
NUMBERS = ("0", "1", "2")

ROWS = [
    # the data's names, the model's labels, the data's classes with images, the model's class of each
    (PETS, PETS, [0, 1, 2], [0, 1, 2], ""),
    (("Cat", "DOG", "eel"), PETS, [0, 1, 2], [0, 1, 2], "by name"),
    (("eel", "cat", "dog"), PETS, [0, 1, 2], [2, 0, 1], "by name: eel is eel, cat is cat"),
    (("Traffic-Sign 1", "b_c"), ("b c", "traffic sign 1"), [0, 1], [1, 0], "by name"),
    (("cat", "eel"), PETS, [0, 1], [0, 2], "by name"),
    (("cat", "emu", "eel"), (*PETS, "fox"), [0, 2], [0, -1, 2], "by name"),
    (("a", "A"), ("A", "a"), [0, 1], [1, 0], "by name"),
    (NUMBERS, NUMBERS, [0, 1, 2], [0, 1, 2], ""),
    (NUMBERS, ("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2], [0, 1, 2], ""),
    (("0", "1"), NUMBERS, [0, 1], [0, 1], "by number"),
    (("2", "0", "1"), NUMBERS, [0, 1, 2], [2, 0, 1], "by number"),
    (("0", "1", "10", "2"), ("0", "1", "2", "10"), [0, 3], [0, 1, 3, 2], "by number"),
    (("1", "2", "3"), NUMBERS, [0, 1, 2], [0, 1, 2], "number 1 is the first class"),
    (("0", "1", "2", "3"), NUMBERS, [1, 2, 3], [-1, 0, 1, 2], "number 1 is the first class"),
    (("0", "1", "2", "3"), PETS, [1, 2, 3], [-1, 0, 1, 2], "number 1 is the first class"),
    (NUMBERS, PETS, [0, 1, 2], [0, 1, 2], "by index, because one side has numbers only"),
    (("0", "1"), PETS, [0, 1], [0, 1], "number 0 is the first class"),
    (PETS, NUMBERS, [0, 1, 2], [0, 1, 2], "by index, because one side has numbers only"),
    (("Katze", "Hund", "Aal"), PETS, [0, 1, 2], [0, 1, 2], "by index, no name agrees"),
    (("kitten", "dog", "eel"), PETS, [0, 1, 2], [0, 1, 2], "by index, 2 of 3 names agree"),
]


@pytest.mark.parametrize(("names", "labels", "used", "places", "words"), ROWS)
def test_matches(names, labels, used, places, words):
    match = match_labels(names, labels, used)
    assert list(match.places) == places
    assert match.words.startswith(words) if words.startswith("by") else words in match.words
    assert (match.words == "") == (words == "")
    for label in used:
        assert match.apply(torch.tensor([label])).item() == places[label] >= 0


@pytest.mark.parametrize(
    ("names", "labels", "used"),
    [
        (("eel", "kitten", "dog"), PETS, [0, 1, 2]),
        (("cat", "dog", "emu", "eel"), PETS, [0, 1, 2, 3]),
        (("Katze", "Hund"), PETS, [0, 1]),
        (("0", "1", "2", "3"), PETS, [0, 1, 2, 3]),
        (("0", "2", "4"), PETS, [0, 1, 2]),
        (("4", "5", "6"), ("7", "8"), [0, 1, 2]),
        (PETS, ("0", "1"), [0, 1, 2]),
        (("cat", "dog"), NUMBERS, [0, 1]),
    ],
)
def test_accidental_accuracy_is_refused(names, labels, used):
    with pytest.raises(InputError, match=r"^evaluation\.dataset: ") as caught:
        match_labels(names, labels, used)
    assert "\n" not in str(caught.value)


def test_following_the_remedy_gives_the_right_match():
    """The model calls its classes in another language; set in the words of the data, they match by name."""
    names, labels = ("eel", "cat", "dog"), ("Katze", "dog", "Aal")
    with pytest.raises(InputError, match="set labels to the model's classes in the order of its outputs"):
        match_labels(names, labels, [0, 1, 2])
    assert match_labels(names, ("cat", "dog", "eel"), [0, 1, 2]).places == (2, 0, 1)
