"""Classes of data and model are matched by name, or by index where that is said, or the data are refused."""

from __future__ import annotations

import dataclasses

import nets
import pytest
import torch
from records import LABELS, make_record

from abd_hub import Classifier, DataSpec, ImageData
from abd_hub.core.errors import InputError
from abd_hub.core.record_file import record_from_json, record_to_json
from abd_hub.core.records import DataRef
from abd_hub.evaluation.label_match import match_labels
from abd_hub.evaluation.measurement import in_classes_of
from abd_hub.publish.card import render_card

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
    assert match.how == (match.words or "by equal names or numbers in the same order")
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


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (PETS, "by equal names or numbers in the same order"),
        (("eel", "cat", "dog"), "by name: eel is eel, cat is cat, dog is dog"),
        (NUMBERS, "by index, because one side has numbers only: number 0 is the first class"),
    ],
)
def test_the_record_and_the_card_say_how(names, words):
    classifier = Classifier(nets.PlainNet(), DataSpec(3, 8, 8, PETS), nets.MEAN, nets.STD)
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    data = ImageData(images, torch.arange(3), names, DataRef("pets", "test", "f00d", n=3))
    matched = in_classes_of(classifier, data)
    assert (matched.ref.classes, data.ref.classes) == (words, None)

    record = dataclasses.replace(make_record(), data=matched.ref)
    assert record_from_json(record_to_json(record)).data.classes == words
    card = render_card(record, labels=LABELS)
    assert f"The classes of data and model were matched {words}." in card
    older = record_to_json(record)
    del older["data"]["classes"]
    assert "were matched" not in render_card(record_from_json(older), labels=LABELS)


def test_following_the_remedy_gives_the_right_match():
    """The model calls its classes in another language; set in the words of the data, they match by name."""
    names, labels = ("eel", "cat", "dog"), ("Katze", "dog", "Aal")
    with pytest.raises(InputError, match="set labels to the model's classes in the order of its outputs"):
        match_labels(names, labels, [0, 1, 2])
    assert match_labels(names, ("cat", "dog", "eel"), [0, 1, 2]).places == (2, 0, 1)
