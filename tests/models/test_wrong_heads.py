"""Heads and files that are no classifier of one label an image are refused before any work."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoints import edit
from safetensors.torch import load_file, save_file
from transformers import ResNetModel

from abd_hub.core.errors import InputError
from abd_hub.models.classifier import load_classifier

BARE = {"architecture": "wrn_10_1", "num_classes": 3, "mean": [0.0] * 3, "std": [1.0] * 3, "input_size": 16}
BARE["allow_pickle"] = True
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def refused(source, words, **options):
    with pytest.raises(InputError, match=words) as caught:
        load_classifier(str(source), **options)
    assert "\n" not in str(caught.value) and "undamaged" not in str(caught.value)


def test_a_backbone_has_no_head(resnet_folder):
    backbone = ResNetModel.from_pretrained(resnet_folder)
    config = json.loads((resnet_folder / "config.json").read_text())
    backbone.save_pretrained(resnet_folder)
    (resnet_folder / "config.json").write_text(json.dumps(config))
    refused(resnet_folder, r"no classification head .*classifier\.1\.weight")


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_outputs_that_are_no_classes(resnet_folder, problem):
    edit(resnet_folder / "config.json", problem_type=problem)
    refused(resnet_folder, f"problem_type '{problem}'")
    edit(resnet_folder / "config.json", problem_type="single_label_classification")
    assert load_classifier(str(resnet_folder)).spec.num_classes == 3


def test_transformers_says_nothing_itself(resnet_folder, capfd):
    edit(resnet_folder / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    capfd.readouterr()  # what the writing of the folder has said
    refused(resnet_folder, r"no classification head .*classifier\.1\.weight")
    assert capfd.readouterr() == ("", "")


def test_a_pickle_that_holds_itself(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "wraps its tensors more than 8 times", **BARE)


def test_one_output_is_no_choice(timm_folder):
    weights = load_file(timm_folder / "model.safetensors")
    last = {
        name: tensor[:1].clone() for name, tensor in weights.items() if len(tensor.shape) and len(tensor) == 3
    }
    save_file({**weights, **last}, timm_folder / "model.safetensors")
    edit(timm_folder / "config.json", num_classes=1, label_names=["yes"])
    refused(timm_folder, "has one output, whose softmax is 1")


def test_numbers_of_eight_bits(timm_folder):
    weights = load_file(timm_folder / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.dim() == 4)
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, timm_folder / "model.safetensors")
    refused(timm_folder, "is stored as float8_e4m3fn; convert it to float16 or")


def test_pointers_of_git_lfs(timm_folder, tmp_path):
    (timm_folder / "model.safetensors").write_text(POINTER)
    refused(timm_folder, "model.safetensors is a git-lfs pointer file .* run 'git lfs pull'")
    (tmp_path / "weights.pth").write_text(POINTER)
    refused(tmp_path / "weights.pth", "weights.pth is a git-lfs pointer file", **BARE)


PROCESSOR = {"image_mean": 0.5, "image_std": 0.5}


@pytest.mark.parametrize(
    ("config", "processor", "words"),
    [
        ({"num_channels": "3"}, PROCESSOR, "num_channels of .* is '3'; use a whole number up to 64"),
        ({"num_channels": None}, PROCESSOR, "num_channels of .* is None"),
        ({"num_channels": 10**10}, PROCESSOR, "num_channels of .* is 10000000000"),
        (
            {},
            {"size": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            "size of .* is True, which is no size of at most 8192 pixels",
        ),
        ({}, {"size": 10**9}, "size of .* is .*1000000000.*, which is no size"),
        ({}, {"image_mean": [0.5] * 10**5, "image_std": [0.5] * 10**5}, "mean: .* has 100,000 numbers"),
    ],
)
def test_absurd_configurations(resnet_folder, config, processor, words):
    """Refused before memory is taken for what they state."""
    edit(resnet_folder / "config.json", **config)
    edit(resnet_folder / "preprocessor_config.json", **processor)
    refused(resnet_folder, words)


def test_a_processor_that_is_no_mapping(resnet_folder):
    (resnet_folder / "preprocessor_config.json").unlink()
    (resnet_folder / "processor_config.json").write_text('{"image_processor": [1]}')
    refused(resnet_folder, "image_processor of .* is no mapping")


def test_features_are_no_classes(timm_folder):
    edit(timm_folder / "config.json", model_args={"features_only": True})
    refused(timm_folder, "model_args: 'features_only' is not an argument of a model")
