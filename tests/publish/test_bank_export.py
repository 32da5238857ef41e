"""A bank out of the checkpoint of a real run, read back to the bit by the loaders that people use."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass

import nets
import pytest
import torch
from huggingface_hub import DatasetCard
from tiny_teacher import save_teacher

from abd_hub import (
    DistillConfig,
    InputError,
    ModelOptions,
    StudentOptions,
    Trainer,
    TrainerOptions,
    Zskt,
    distill,
    export_bank,
    load_images,
)
from abd_hub.cli import main
from abd_hub.core import registry
from abd_hub.learning import checkpoint
from abd_hub.publish import bank_export
from abd_hub.synthesis.bank_synthesizer import BankMethod, BankSynthesizer


@dataclass(frozen=True, kw_only=True)
class BankForTests(BankMethod):
    """Noise for one class after the other."""

    rounds: int = 5
    batch_size: int = 4
    student_steps: int = 1
    learning_rate: float = 1e-3
    bank_size: int = 18
    crop_padding: int = 1

    def build(self, teacher, accelerator, seed, images=None):
        return NoiseBank(self, teacher, accelerator, seed)


class NoiseBank(BankSynthesizer):
    """Five noise images a round."""

    def update(self, networks):
        spec = self.spec
        draw = self.chance("noise")
        pixels = torch.rand(5, spec.channels, spec.height, spec.width, generator=draw)
        self.keep(pixels, torch.randint(spec.num_classes, (5,), generator=draw))
        return {}


@pytest.fixture(scope="module", autouse=True)
def known():
    """The method is registered while these tests run: others count what is registered."""
    registry.register("synthesizers", "bank_for_tests")(BankForTests)
    yield
    registry._registered["synthesizers"].pop("bank_for_tests")


def run(folder, method=None, checkpoint_every=2):
    config = DistillConfig(
        output_dir=str(folder / "run"),
        teacher=ModelOptions(id=f"local-dir:{save_teacher(folder / 'teacher')}"),
        student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
        synthesizer=method or BankForTests(),
        purification="none",
        trainer=TrainerOptions(progress=False, checkpoint_every=checkpoint_every),
    )
    return distill(config)


def by_hand(folder):
    """A run from Python, which leaves checkpoints and no configuration; gives its bank."""
    folder.mkdir()
    trainer = Trainer(
        nets.wrn(base_width=4).freeze(),
        nets.wrn(seed=1, base_width=4),
        BankForTests(rounds=3),
        [],
        TrainerOptions(progress=False, checkpoint_every=1),
        folder=folder,
    )
    trainer.fit()
    return trainer.synthesizer.bank()


def test_a_finished_run(tmp_path, capsys):
    record = run(tmp_path)
    place = tmp_path / "images"
    assert main(["export-bank", str(tmp_path / "run"), str(place), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[-1]
    bank = checkpoint.load(newest)[1]["synthesizer"]["bank"]
    assert said == {
        "folder": str(place), "images": 18, "height": 8, "width": 8,
        "labels": [str(digit) for digit in range(10)], "rounds": 5,
    }  # fmt: skip
    data = load_images(str(place), "train")
    assert data.names == tuple(str(digit) for digit in range(10))
    assert torch.equal(data.images, bank["images"]) and torch.equal(data.labels, bank["labels"])
    assert not list(tmp_path.glob(".abd-tmp*"))

    card = DatasetCard.load(place / "README.md")
    assert card.data.to_dict()["task_categories"] == ["image-classification"]
    assert "synthetic" in card.data.tags and card.data.size_categories == ["n<1K"]
    for words in ("`bank_for_tests`, 5 rounds", f"`{record.teacher.id}`", record.teacher.sha256, "backdoor"):
        assert words in card.text, words
    assert str(tmp_path) not in card.content


def test_the_datasets_library_reads_it(tmp_path):
    import datasets

    bank = by_hand(tmp_path / "run")
    place = export_bank(tmp_path / "run", tmp_path / "images")
    found = datasets.load_dataset(str(place), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == [str(n) for n in range(int(bank.labels.max()) + 1)]
    assert isinstance(found.features["image"], datasets.Image)
    assert found["label"] == bank.labels.tolist()
    for index in (0, 7, len(bank) - 1):
        pixels = torch.tensor(list(found[index]["image"].tobytes()), dtype=torch.uint8).view(8, 8, 3)
        assert torch.equal(pixels.permute(2, 0, 1), bank.images[index])


def test_several_files_are_read_in_order(tmp_path, monkeypatch):
    bank = by_hand(tmp_path / "run")
    monkeypatch.setattr(bank_export, "SHARD", 4 * 3 * 8 * 8)
    place = export_bank(tmp_path / "run", tmp_path / "images")
    names = [f"train-{index:05d}-of-00004.parquet" for index in range(4)]
    assert sorted(path.name for path in (place / "data").iterdir()) == names
    assert torch.equal(load_images(str(place), "train").images, bank.images)


def test_an_unfinished_run_says_so_and_uses_the_labels_it_was_told(tmp_path):
    run(tmp_path)
    for file in ("metrics.json", "config.json"):
        (tmp_path / "run" / file).unlink()
    config = (tmp_path / "run" / "config.yaml").read_text()
    labels = "labels:\n  - " + "\n  - ".join(f"class {n}" for n in range(12))
    (tmp_path / "run" / "config.yaml").write_text(config.replace("labels: null", labels))
    place = export_bank(tmp_path / "run", tmp_path / "images")
    assert load_images(str(place), "train").names == tuple(f"class {n}" for n in range(12))
    card = (place / "README.md").read_text()
    assert "**the run was not finished**" in card and "`local-dir:teacher`" in card


def test_no_two_exports_are_taken_for_one_another(tmp_path):
    """The datasets library keeps copies of what it has read, by name."""
    for index in range(3):
        images = torch.full((2, 3, 8, 8), 40 * index, dtype=torch.uint8)
        bank = bank_export.Bank(images, torch.arange(2), ("a", "b"), "x", "y", None, 1, True)
        place = tmp_path / str(index) / "images"
        bank_export.write_bank(bank, place)
        assert torch.equal(load_images(str(place), "train").images, images)
    shutil.rmtree(place)
    bank_export.write_bank(dataclasses.replace(bank, images=images + 1), place)
    assert torch.equal(load_images(str(place), "train").images, images + 1)


def test_gray_images_stay_gray(tmp_path):
    images = (nets.pixels(4)[:, :1] * 255).to(torch.uint8)
    bank = bank_export.Bank(images, torch.arange(4), tuple("abcd"), "x", "y", None, 1, True)
    place = bank_export.write_bank(bank, tmp_path / "images")
    assert torch.equal(load_images(str(place), "train").images, images.expand(4, 3, 8, 8))


def edited(folder, **values):
    """A run whose newest checkpoint holds another bank."""
    by_hand(folder)
    newest = checkpoint.checkpoints(folder / "checkpoints")[-1]
    rounds, state = checkpoint.load(newest)
    state["synthesizer"]["bank"].update(values)
    checkpoint.save(folder / "checkpoints", rounds, state, 1)


def without_checkpoint(folder):
    run(folder.parent, checkpoint_every=0)


def without_bank(folder):
    method = Zskt(rounds=2, batch_size=4, student_steps=1, attention_weight=0, z_dim=4, generator_channels=4)
    run(folder.parent, method)


def empty(folder):
    images = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    edited(folder, images=images, labels=torch.zeros(0, dtype=torch.int64))


def torn(folder):
    by_hand(folder)
    (checkpoint.checkpoints(folder / "checkpoints")[-1] / "state.safetensors").write_bytes(b"x")


BAD_RUNS = {
    "no folder": (lambda folder: None, "there is no folder"),
    "another folder": (lambda folder: folder.mkdir(), "holds no checkpoint"),
    "no checkpoint": (without_checkpoint, "holds no checkpoint"),
    "no bank": (without_bank, "zskt keeps no images"),
    "empty bank": (empty, "still empty"),
    "torn checkpoint": (torn, "cannot be read"),
    "images of another type": (lambda folder: edited(folder, images=torch.zeros(15, 3, 8, 8)), "damaged"),
    "too few labels": (lambda folder: edited(folder, labels=torch.zeros(3, dtype=torch.int64)), "damaged"),
    "negative labels": (
        lambda folder: edited(folder, labels=torch.full((15,), -1)),
        r"labels outside 0\.\.",
    ),
}


@pytest.mark.parametrize("kind", BAD_RUNS)
def test_runs_that_cannot_be_exported(kind, tmp_path, capsys):
    make, words = BAD_RUNS[kind]
    make(tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(InputError, match=words):
        export_bank(tmp_path / "run", tmp_path / "images")
    assert main(["export-bank", str(tmp_path / "run"), str(tmp_path / "images")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "images").exists() and not list(tmp_path.glob(".abd-tmp*"))


@pytest.mark.parametrize("kind", ["folder", "file", "link to nowhere", "under a file"])
def test_places_that_are_taken(kind, tmp_path):
    by_hand(tmp_path / "run")
    place = tmp_path / "images"
    if kind == "folder":
        place.mkdir()
    elif kind == "link to nowhere":
        place.symlink_to(tmp_path / "gone")
    else:
        place.write_text("precious")
    wanted = place / "below" if kind == "under a file" else place
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"^folder: "):
        export_bank(tmp_path / "run", wanted)
    assert sorted(tmp_path.iterdir()) == before
    assert kind in ("folder", "link to nowhere") or place.read_text() == "precious"
