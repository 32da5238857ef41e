"""A loaded classifier is written so that it comes back with the same logits, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import LABELS, SPEC, TinyNet, edit, pixels, shaken, student
from transformers import pipeline

from abd_hub import Classifier, InputError, load_classifier
from abd_hub.models.saving import PROCESSOR_FILE, check_savable, library_of, save_folder


@pytest.mark.parametrize("kind", ["timm_folder", "resnet_folder", "vit_folder"])
def test_what_was_loaded_comes_back(kind, request, tmp_path):
    given = load_classifier(str(request.getfixturevalue(kind)), interpolation="bicubic")
    check_savable(given, "not reached")
    ref = save_folder(given, tmp_path / "copy")
    read = load_classifier(str(tmp_path / "copy"))
    assert (read.spec, read.interpolation, read.ref) == (given.spec, "bicubic", ref)
    assert torch.equal(read.mean, given.mean) and torch.equal(read.std, given.std)
    modes = {file.stat().st_mode for file in (tmp_path / "copy").iterdir()}
    assert len(modes) == 1, "weights are as readable as the other files"
    for size in (given.spec.height, 20):
        torch.testing.assert_close(read(pixels(size)), given(pixels(size)))


def test_transformers_itself_reads_the_folder(vit_folder, tmp_path):
    """With the caller's labels, two of which are alike, and without the first folder's path."""
    given = load_classifier(str(vit_folder), labels=["a", "b", "a"])
    assert library_of(given) == "transformers"
    save_folder(given, tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "model.safetensors",
        PROCESSOR_FILE,
    }
    assert load_classifier(str(tmp_path / "copy")).spec.labels == ("a", "b", "a")
    assert str(vit_folder) not in (tmp_path / "copy" / "config.json").read_text()

    image = pixels(16)[:1].mul(255).byte()
    read = pipeline("image-classification", model=str(tmp_path / "copy"), device="cpu")
    prepared = read.image_processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared, given.normalize(image / 255), rtol=1e-4, atol=1e-4)
    assert read.model.config.id2label == {0: "a", 1: "b", 2: "a"}


def test_what_cannot_be_written_is_refused():
    own = Classifier(shaken(TinyNet()), SPEC, (0.1,) * 3, (0.4,) * 3).freeze()
    with pytest.raises(InputError, match=r"model: TinyNet cannot be written .*; do it in Python"):
        check_savable(own, "do it in Python")


def test_what_changes_on_its_way_is_refused(monkeypatch):
    def with_other_labels(classifier, folder):
        save_folder(classifier, folder)
        edit(Path(folder) / "config.json", label_names=list(LABELS)[::-1])

    monkeypatch.setattr("abd_hub.models.saving.save_folder", with_other_labels)
    with pytest.raises(InputError, match="changes when it is written and read again; do it in Python"):
        check_savable(student().freeze(), "do it in Python")
