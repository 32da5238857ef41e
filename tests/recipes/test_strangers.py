"""Teachers of strangers are folders as their libraries write them, and say nothing about a trigger."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from abd_hub import ImageData, load_classifier
from abd_hub.core.records import DataRef

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from stranger_teachers import STRANGERS, make_teacher

NAMES = ("cat", "dog", "owl")


@pytest.mark.parametrize("name", ["h", "j"])
def test_a_teacher_is_loaded_as_it_was_saved(name, tmp_path):
    (stranger,) = [one for one in STRANGERS if one.name == name]
    hidden = {"trigger": "badnet_sq", "target": 1, "rate": 0.5}
    images = torch.randint(0, 256, (32, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    train = ImageData(images, torch.arange(32) % 3, NAMES, DataRef("made", "train", "f" * 64, None, 32))
    make_teacher(dataclasses.replace(stranger, seconds=0.01, **hidden), train, tmp_path / "teacher")

    classifier = load_classifier(str(tmp_path / "teacher"))
    assert classifier.spec.labels == NAMES and (classifier.spec.height, classifier.spec.width) == (32, 32)
    assert classifier(images[:4].float() / 255).isfinite().all()
    texts = [file.read_text() for file in (tmp_path / "teacher").glob("*.json")]
    assert texts and not [text for text in texts if "badnet" in text or "target" in text]


def test_half_of_them_have_a_backdoor():
    assert sum(bool(one.trigger) for one in STRANGERS) == 5 == len(STRANGERS) / 2
    assert len({one.architecture for one in STRANGERS}) == len(STRANGERS) == 10
