"""Checkpoints as inputs: their configurations, their image processors and their weights."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz_mutations import KEYS, RAW_JSON, json_bytes, mutated, odd_value
from fuzz_registry import kind
from fuzz_weights import hostile_pickle, hostile_safetensors
from safetensors.torch import load_file

from abd_hub import load_classifier

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


def rewritten(file: Path, chance: random.Random, change: Callable[[Any], None] = lambda tree: None) -> None:
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
    rewritten(folder / "model" / "config.json", chance, change)


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
    rewritten(folder / "model" / "config.json", chance, change)


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
        rewritten(file, chance)
    else:
        rewritten(file, chance, change)


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
