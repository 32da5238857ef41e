"""Every kind of input that abd-hub takes from strangers: how one is made, and which part of abd-hub reads it.

A kind writes an input into an empty folder and reads it there. Valid examples lie in another folder, which
``make_examples`` fills once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import abd_hub_app
import datasets
import torch
from abd_hub_app.drawing import read_drawing
from abd_hub_app.images import read_picture, to_pixels
from abd_hub_app.taught import show
from bad_inputs import basic
from checkpoints import LABELS, MEAN, STD, shaken
from fuzz_data_sets import write_folder, write_parquet
from fuzz_mutations import KEYS, RAW_JSON, RAW_YAML, json_bytes, mutated, mutated_bytes, odd_value, yaml_bytes
from fuzz_pictures import hostile_array, hostile_drawing, hostile_picture, plain_picture
from fuzz_weights import hostile_pickle, hostile_safetensors
from purified_folder import make_purified
from records import make_teacher_record
from safetensors.torch import load_file
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
from abd_hub.cli import main
from abd_hub.core.files import write_json
from abd_hub.core.record_file import read_any_record, read_purified_record, to_json
from abd_hub.data.boundary import check_card
from abd_hub.publish import front_matter
from abd_hub.report.evidence import read_evidence
from abd_hub.synthesis import photographs

CODE = "open('ran', 'w')\nclass Model:\n    pass\n"
SIZES = (1, 3, 8, 64, 1_000, 100_000, 10**7, 2**31, 10**12)
"""Numbers from which a careless reader would build a network."""
ARCHITECTURES = {
    "wrn_10_1": ("base_width", "depth", "widen_factor"),
    "resnet18": ("base_width", "layers", "cardinality", "drop_rate", "output_stride", "stem_width"),
    "test_vit": ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_reg_tokens"),
    "swin_tiny_patch4_window7_224": ("img_size", "window_size", "embed_dim", "depths", "num_heads"),
    "test_resnet": ("layers", "channels", "block", "act_layer", "norm_layer"),
}


@dataclass(frozen=True)
class Kind:
    """One kind of input."""

    name: str
    share: int
    """Its part of a campaign, in thousandths."""
    write: Callable[[Path, Path, random.Random], None]
    """Makes an input: (examples, empty folder, chance)."""
    read: Callable[[Path, Path], Any]
    """Reads it with abd-hub: (examples, folder)."""


KINDS: dict[str, Kind] = {}


def kind(share: int, read: Callable[[Path, Path], Any], name: str = "") -> Callable[[Callable], Callable]:
    """Registers the function below as the writer of a kind."""

    def register(write: Callable) -> Callable:
        own = name or write.__name__
        KINDS[own] = Kind(own.replace("_", " "), share, write, read)
        return write

    return register


def make_examples(place: Path) -> None:
    """Writes one valid example of each kind, and a picture that lies outside of every input."""
    save_teacher(place / "timm")
    _save_transformers(place)
    make_folder(place / "student")
    make_purified(place / "purified")
    _save_trained(place / "teacher")
    shutil.copytree(Path(abd_hub_app.__file__).parent / "models" / "abd", place / "shown")
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
    show(abd_hub_app.load_shelf([examples / "shown"]).models[0])
    with tempfile.TemporaryDirectory() as place:
        for name, read in (("settings", settings_of), ("sweep", sweep_of), ("card", card_of)):
            folder = Path(place, name)
            folder.mkdir()
            KINDS[name].write(examples, folder, random.Random(name))
            with contextlib.suppress(InputError):
                read(examples, folder)


# ------------------------------------------------------------------------------------------------ checkpoints


def load(_examples: Path, folder: Path, **options: Any) -> None:
    """A checkpoint that loads must give numbers."""
    classifier = load_classifier(str(folder / "model"), **options)
    spec = classifier.spec
    with torch.no_grad():
        logits = classifier(torch.zeros(1, spec.channels, spec.height, spec.width))
    assert logits.shape == (1, spec.num_classes) and logits.isfinite().all(), "its logits are no numbers"


def load_pickle(examples: Path, folder: Path) -> None:
    """With permission to read pickles."""
    load(examples, folder, allow_pickle=True)


def _rewritten(file: Path, chance: random.Random, change: Callable[[Any], None] = lambda tree: None) -> None:
    tree = json.loads(file.read_text(encoding="utf-8"))
    change(tree)
    file.write_bytes(json_bytes(mutated(tree, chance, RAW_JSON), chance))


@kind(90, load)
def timm_configuration(examples: Path, folder: Path, chance: random.Random) -> None:
    def change(tree: Any) -> None:
        if chance.random() < 0.3:
            name = chance.choice(list(ARCHITECTURES))
            given = {field: _size(chance) for field in ARCHITECTURES[name] if chance.random() < 0.4}
            tree.update(architecture=name, model_args={**given, chance.choice(KEYS): odd_value(chance)})
            tree["model_args"] = given if chance.random() < 0.8 else tree["model_args"]
        for field in ("mean", "std", "input_size"):
            if chance.random() < 0.08:
                tree["pretrained_cfg"][field] = [odd_value(chance) for _ in range(3)]

    shutil.copytree(examples / "timm", folder / "model")
    _rewritten(folder / "model" / "config.json", chance, change)


def _size(chance: random.Random) -> Any:
    size = chance.choice(SIZES)
    return chance.choice((size, size, [size] * 4, [size], [[size]], odd_value(chance)))


@kind(55, load)
def transformers_configuration(examples: Path, folder: Path, chance: random.Random) -> None:
    def change(tree: Any) -> None:
        numbers = [name for name, value in tree.items() if type(value) in (int, list)]
        if chance.random() < 0.3:
            tree[chance.choice(numbers)] = _size(chance)
        if chance.random() < 0.1:
            tree["auto_map"] = {
                "AutoModelForImageClassification": "modeling_x.Model",
                "AutoConfig": "modeling_x.Model",
            }
        if chance.random() < 0.1:
            tree.update(
                model_type="timm_wrapper",
                architecture=chance.choice(("hf-hub:org/x", "local-dir:/etc", "test_vit")),
            )

    shutil.copytree(examples / chance.choice(("resnet", "vit")), folder / "model")
    (folder / "model" / "modeling_x.py").write_text(CODE)
    _rewritten(folder / "model" / "config.json", chance, change)


@kind(40, load)
def image_processor(examples: Path, folder: Path, chance: random.Random) -> None:
    def change(tree: Any) -> None:
        tree.update({name: odd_value(chance) for name in PROCESSOR_FIELDS if chance.random() < 0.06})

    shutil.copytree(examples / chance.choice(("resnet", "vit")), folder / "model")
    file = folder / "model" / "preprocessor_config.json"
    if chance.random() < 0.3:
        tree = {"image_processor": json.loads(file.read_text()), "processor_class": "X"}
        file.unlink()
        file = file.with_name("processor_config.json")
        file.write_text(json.dumps(tree))
        _rewritten(file, chance)
    else:
        _rewritten(file, chance, change)


PROCESSOR_FIELDS = (
    *("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad", "do_flip_channel_order", "size"),
    *(
        "rescale_factor",
        "image_mean",
        "image_std",
        "crop_size",
        "resample",
        "include_top",
        "image_processor_type",
    ),
)


@functools.cache
def _tensors(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


@kind(100, load)
def safetensors(examples: Path, folder: Path, chance: random.Random) -> None:
    name = chance.choice(("timm", "timm", "timm", "resnet"))
    shutil.copytree(examples / name, folder / "model")
    file = folder / "model" / "model.safetensors"
    data = hostile_safetensors(_tensors(examples / name / file.name), chance)
    file.write_bytes(data)
    if chance.random() < 0.1:
        parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        file.rename(file.with_name(parts[0]))
        weights = {
            name: chance.choice((*parts, "../../outside/x.safetensors"))
            for name in list(_tensors(examples / name / file.name))[:5]
        }
        index = {"metadata": {"total_size": 1}, "weight_map": weights}
        (folder / "model" / f"{file.name}.index.json").write_bytes(
            json_bytes(mutated(index, chance, RAW_JSON), chance)
        )


@kind(90, load_pickle)
def pickles(examples: Path, folder: Path, chance: random.Random) -> None:
    name = chance.choice(("timm", "timm", "timm", "resnet"))
    shutil.copytree(examples / name, folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    tensors = _tensors(examples / name / "model.safetensors")
    (folder / "model" / "pytorch_model.bin").write_bytes(hostile_pickle(tensors, chance, folder / "ran"))


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
    pixels = to_pixels(read_picture(folder / "picture"), 3, 8, 8)
    assert pixels.shape == (1, 3, 8, 8)


@kind(60, upload)
def page_upload(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "picture").write_bytes(hostile_picture(chance))


def drawing(_examples: Path, folder: Path) -> None:
    pixels, _ = read_drawing(json.loads((folder / "drawing.json").read_text()), 8, 8)
    assert pixels.shape == (4, 8, 8)


@kind(20, drawing)
def page_drawing(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "drawing.json").write_text(json.dumps(hostile_drawing(chance)))


# ------------------------------------------------------------------------------------- records and settings


def command(*words: str) -> None:
    """Runs a command in this process; its refusal becomes an error whose text is what it has shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as shown:
        code = main(words)
    lines = [line for line in shown.getvalue().splitlines() if line.strip()]
    assert code in (0, 2), f"exit code {code}: {lines}"
    if code == 2:
        raise InputError("\n".join(line.removeprefix("abd-hub: ") for line in lines))


def record_of(_examples: Path, folder: Path) -> None:
    """What reads the folder of a finished run."""
    place = folder / "run"
    if (place / "metrics.json").exists():
        read_any_record(place)
    else:
        read_purified_record(place)


@kind(70, record_of)
def record(examples: Path, folder: Path, chance: random.Random) -> None:
    name, file = chance.choice(
        (("student", "metrics.json"), ("teacher", "metrics.json"), ("purified", "purification.json"))
    )
    (folder / "run").mkdir()
    shutil.copy(examples / name / file, folder / "run")
    if chance.random() < 0.01:
        (folder / "run" / file).unlink()
        os.mkfifo(folder / "run" / file)
    else:
        _rewritten(folder / "run" / file, chance)


def shown(_examples: Path, folder: Path) -> None:
    """The page shows a stranger's run without the parts that cannot be read."""
    shelf = abd_hub_app.load_shelf([folder / "run"])
    show(shelf.models[0])
    with contextlib.suppress(InputError):
        read_evidence(folder / "run")


@kind(20, shown)
def page_folder(examples: Path, folder: Path, chance: random.Random) -> None:
    shutil.copytree(examples / "shown", folder / "run")
    change = chance.randrange(4)
    match change:
        case 0:
            _rewritten(folder / "run" / "samples" / "evidence.json", chance)
        case 1:
            _rewritten(folder / "run" / "metrics.json", chance)
        case 2:
            lines = (folder / "run" / "log.jsonl").read_text().splitlines()[:6]
            rows = [json_bytes(mutated(json.loads(line), chance, RAW_JSON), chance) for line in lines]
            (folder / "run" / "log.jsonl").write_bytes(b"\n".join(rows))
        case _:
            files = sorted((folder / "run" / "samples").glob("*.png"))
            chance.choice(files).write_bytes(hostile_picture(chance))
    if change != 2:
        (folder / "run" / "log.jsonl").unlink()  # its curves would only take time


def card_of(_examples: Path, folder: Path) -> None:
    command("card", str(folder / "run"), "--force")


@kind(15, card_of)
def card(examples: Path, folder: Path, chance: random.Random) -> None:
    shutil.copytree(examples / chance.choice(("student", "teacher", "purified")), folder / "run")
    for name in ("metrics.json", "purification.json"):
        if (folder / "run" / name).exists() and chance.random() < 0.5:
            _rewritten(folder / "run" / name, chance)
    (folder / "run" / "README.md").write_bytes(_card_text(chance))


def metadata_of(_examples: Path, folder: Path) -> None:
    text = (folder / "README.md").read_bytes().decode("utf-8", "replace")
    front_matter.front_matter(text)
    front_matter.license_of(text)
    front_matter.tags(text)
    check_card("pets", text)


@kind(30, metadata_of)
def card_metadata(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "README.md").write_bytes(_card_text(chance))


def _card_text(chance: random.Random) -> bytes:
    facts = {
        "license": "mit",
        "tags": ["abd-hub", "x"],
        "base_model": "org/x",
        "model-index": [{"name": "x", "results": []}],
    }
    facts["configs"] = [{"config_name": "default", "data_files": "data/*"}]
    text = b"---\n" + yaml_bytes(mutated(facts, chance, RAW_YAML), chance) + b"---\n# x\n"
    return mutated_bytes(text, chance) if chance.random() < 0.1 else text


def settings_of(_examples: Path, folder: Path) -> None:
    tree = folder / "run.yaml"
    command("poison" if (folder / "poison").exists() else "distill", f"--config={tree}", "--print_config")


@kind(12, settings_of)
def settings(_examples: Path, folder: Path, chance: random.Random) -> None:
    tree = basic("/nowhere")
    if chance.random() < 0.3:
        (folder / "poison").touch()
        tree = {
            "output_dir": "x",
            "data": {"dataset": "digits"},
            "poison": {"trigger": "badnet_sq", "options": {"size": 2}},
        }
    (folder / "run.yaml").write_bytes(yaml_bytes(mutated(tree, chance, RAW_YAML), chance))


def sweep_of(_examples: Path, folder: Path) -> None:
    command("sweep", str(folder / "sweep.yaml"), "--dry-run")


@kind(8, sweep_of)
def sweep(_examples: Path, folder: Path, chance: random.Random) -> None:
    base = {name: value for name, value in basic("/nowhere").items() if name != "output_dir"}
    tree = {
        "output_dir": "x",
        "config": base,
        "grid": {"seed": [0, 1]},
        "runs": [{"zskt.rounds": 2}, {"zskt.rounds": 3}],
    }
    tree |= {"resources": {"cpus": 1}, "retries": 1}
    if chance.random() < 0.1:
        tree["grid"] = {
            f"zskt.{name}": list(range(1, 40)) for name in ("rounds", "batch_size", "z_dim", "seed")
        }
    if chance.random() < 0.1:
        tree["config"] = chance.choice(("/dev/zero", "/etc/passwd", "sweep.yaml", ".", "x\0y"))
    if chance.random() < 0.2:
        (folder / "base.yaml").write_bytes(yaml_bytes(mutated(base, chance, RAW_YAML), chance))
        tree["config"] = "base.yaml"
    (folder / "sweep.yaml").write_bytes(yaml_bytes(mutated(tree, chance, RAW_YAML), chance))


assert sum(one.share for one in KINDS.values()) == 1_000, sum(one.share for one in KINDS.values())
