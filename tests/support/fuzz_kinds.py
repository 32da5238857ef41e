"""Every kind of input that abd-hub takes from strangers: how one is made, and which part of abd-hub reads it.

A kind writes an input into an empty folder and reads it there. Valid examples lie in another folder, which
``make_examples`` fills once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

import datasets
import fuzz_checkpoints  # noqa: F401 - registers its kinds
import torch
from abd_hub_app.drawing import read_drawing
from abd_hub_app.images import read_picture, to_pixels
from abd_hub_app.shelf import load_shelf
from abd_hub_app.taught import show
from checkpoints import LABELS, MEAN, STD, shaken
from fuzz_data_sets import write_folder, write_parquet
from fuzz_pictures import hostile_array, hostile_drawing, hostile_picture, plain_picture
from fuzz_registry import KINDS, Kind, kind
from fuzz_runs import card_of, settings_of, sweep_of
from purified_folder import make_purified
from records import make_teacher_record
from student_folder import make_folder
from tiny_teacher import save_teacher

from abd_hub import (
    DataSpec,
    InputError,
    build_trigger,
    create_student,
    load_classifier,
    load_images,
    save_timm_folder,
)
from abd_hub.core.files import write_json
from abd_hub.core.record_file import to_json
from abd_hub.synthesis import photographs

__all__ = ["KINDS", "Kind", "make_examples", "preload"]


def make_examples(place: Path) -> None:
    """Writes one valid example of each kind, and a picture that lies outside of every input."""
    save_teacher(place / "timm")
    _save_transformers(place)
    make_folder(place / "student")
    make_purified(place / "purified")
    _save_trained(place / "teacher")
    shutil.copytree(Path(__file__).parent / "digits" / "abd", place / "shown")
    (place / "outside").mkdir()
    (place / "outside" / "secret.png").write_bytes(plain_picture())


def _save_trained(folder: Path) -> None:
    spec = DataSpec(3, 8, 8, LABELS)
    made = create_student("wrn_10_1", spec, MEAN, STD, seed=2, model_args={"base_width": 4})
    write_json(
        folder / "metrics.json", to_json(make_teacher_record(save_timm_folder(made, folder)), "record")
    )


def _save_transformers(place: Path) -> None:
    import transformers as hf

    names = {"id2label": dict(enumerate(LABELS))}
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    made = {
        "resnet": hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, **names)),
        "vit": hf.ViTForImageClassification(hf.ViTConfig(**small, image_size=16, patch_size=4, **names)),
    }
    for name, model in made.items():
        shaken(model).save_pretrained(place / name)
        processor = hf.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=MEAN, image_std=STD)
        processor.save_pretrained(place / name)


@functools.cache
def preload(examples: Path) -> None:
    """Imports what every process of inputs needs; none of it starts a thread."""
    torch.set_num_threads(1)
    for name in ("timm", "resnet", "vit"):
        load_classifier(str(examples / name))
    show(load_shelf([examples / "shown"]).models[0])
    with tempfile.TemporaryDirectory() as place:
        for name, read in (("settings", settings_of), ("sweep", sweep_of), ("card", card_of)):
            folder = Path(place, name)
            folder.mkdir()
            KINDS[name].write(examples, folder, random.Random(name))
            with contextlib.suppress(InputError):
                read(examples, folder)


# -------------------------------------------------------------------------------------------------- data sets


def images_of(_examples: Path, folder: Path) -> None:
    """Some read as they are, and some resized."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    size = 8 if len(str(folder.stat().st_ino)) % 2 else None
    data = load_images(str(folder / "pets"), "test", image_size=size)
    assert len(data.images) == len(data.labels) > 0


@kind(45, images_of)
def parquet(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "pets").mkdir()
    write_parquet(folder / "pets", chance)


@kind(35, images_of)
def image_folder(examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "pets").mkdir()
    write_folder(folder / "pets", chance, examples / "outside")


# --------------------------------------------------------------------------------------------------- pictures


def photograph(_examples: Path, folder: Path) -> None:
    photographs.load("ood.pictures", str(folder / "picture"))


@kind(210, photograph)
def picture(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "picture").write_bytes(hostile_picture(chance))


def trigger_of(_examples: Path, folder: Path) -> None:
    """Applied to images of its own size and of another."""
    options = json.loads((folder / "options.json").read_text())
    trigger = build_trigger("picture", options)
    pixels = trigger(torch.full((2, 3, 8, 8), 0.5))
    assert pixels.shape == (2, 3, 8, 8) and bool(((pixels >= 0) & (pixels <= 1)).all())


@kind(100, trigger_of)
def trigger(_examples: Path, folder: Path, chance: random.Random) -> None:
    mask = folder / chance.choice(("mask.png", "mask.npy", "mask.npy"))
    good = mask.suffix == ".npy" or chance.random() < 0.5
    (folder / "picture.png").write_bytes(plain_picture(8) if good else hostile_picture(chance, 8))
    mask.write_bytes(hostile_array(chance) if mask.suffix == ".npy" else hostile_picture(chance, 8))
    options = {
        "file": str(folder / "picture.png"),
        "mode": chance.choice(("replace", "add", "blend")),
        "resize": True,
    }
    options["mask"] = str(mask) if chance.random() < 0.8 else ""
    (folder / "options.json").write_text(json.dumps(options))


def upload(_examples: Path, folder: Path) -> None:
    pixels = to_pixels(read_picture(folder / "picture"))
    assert pixels.shape[:2] == (1, 3)
    assert 0 <= pixels.min() <= pixels.max() <= 1


@kind(60, upload)
def page_upload(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "picture").write_bytes(hostile_picture(chance))


def drawing(_examples: Path, folder: Path) -> None:
    pixels, _ = read_drawing(json.loads((folder / "drawing.json").read_text()), 8, 8)
    assert pixels.shape == (4, 8, 8)


@kind(20, drawing)
def page_drawing(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "drawing.json").write_text(json.dumps(hostile_drawing(chance)))


assert sum(one.share for one in KINDS.values()) == 1_000, sum(one.share for one in KINDS.values())
