"""Checkpoints as other programs write them: wrappers, trainers' folders, profilers, adapters, 3x3 stems."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch
from checkpoints import BARE, LABELS, MEAN, STD, cifar_resnet, edit, normalized, pixels, shaken
from hostile_pickle import Hostile
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperModel

from abd_hub.core.errors import InputError
from abd_hub.models.classifier import load_classifier
from abd_hub.models.saving import save_timm_folder

CFG = {"input_size": [3, 16, 16], "mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"}
PICKLED = {**BARE, "allow_pickle": True}


def same(read, model, size=16):
    images = pixels(size)
    with torch.no_grad():
        torch.testing.assert_close(read(images), model(normalized(images)), rtol=1e-4, atol=1e-5)


def refused(source, words, **options):
    with pytest.raises(InputError, match=words) as caught:
        load_classifier(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------- timm_wrapper


@pytest.fixture
def wrapped(tmp_path):
    """A timm network in a folder of transformers, with its names before every weight."""
    kept = {"architecture": "test_resnet", "num_classes": 3, "label_names": list(LABELS)}
    config = TimmWrapperConfig.from_dict({**kept, "pretrained_cfg": CFG})
    model = shaken(TimmWrapperForImageClassification(config))
    model.save_pretrained(tmp_path / "wrapped")
    return tmp_path / "wrapped", model


def test_a_timm_network_that_transformers_has_saved(wrapped, tmp_path):
    folder, model = wrapped
    assert all(name.startswith("timm_model.") for name in load_file(folder / "model.safetensors"))
    read = load_classifier(str(folder))
    same(read, lambda images: model(pixel_values=images).logits)
    assert (read.spec.labels, read.interpolation, read.architecture) == (LABELS, "bicubic", "test_resnet")
    save_timm_folder(read, tmp_path / "again")
    same(load_classifier(str(tmp_path / "again")), lambda images: model(pixel_values=images).logits)


def test_older_forms_of_a_timm_wrapper(wrapped):
    folder, _ = wrapped
    changes = {"label_names": "drop", "num_classes": "drop", "pretrained_cfg": "drop"}
    edit(folder / "config.json", **changes, id2label={"0": "x", "1": "y", "2": "z"})
    (folder / "preprocessor_config.json").write_text(json.dumps({"pretrained_cfg": CFG}))
    read = load_classifier(str(folder))
    assert (read.spec.labels, read.spec.height) == (("x", "y", "z"), 16)
    edit(folder / "config.json", problem_type="multi_label_classification")
    refused(folder, "says problem_type 'multi_label_classification'")
    edit(folder / "config.json", problem_type="drop", architecture="drop")
    refused(folder, "names no architecture of timm")


def test_a_timm_wrapper_without_a_head(tmp_path):
    kept = {"architecture": "test_resnet", "num_classes": 3}
    config = TimmWrapperConfig.from_dict({**kept, "pretrained_cfg": CFG})
    TimmWrapperModel(config).save_pretrained(tmp_path / "backbone")
    refused(tmp_path / "backbone", "no classification head")


# ------------------------------------------------------------------------------------ trainers' folders


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.pth"])
def test_only_the_weights_of_a_trainers_folder_are_opened(timm_folder, tmp_path, name):
    tensors = load_file(timm_folder / "model.safetensors")
    before = load_classifier(str(timm_folder))
    (timm_folder / "model.safetensors").unlink()
    save_file(tensors, timm_folder / name) if name.endswith("s") else torch.save(tensors, timm_folder / name)
    rest = "optimizer.pt training_args.bin scheduler.pt rng_state.pth rng_state_0.pth scaler.pt optimizer.bin"
    (timm_folder / "checkpoint-500").mkdir()
    for other in [*rest.split(), "random_states_0.pkl", "checkpoint-500/pytorch_model.bin"]:
        torch.save(Hostile(tmp_path / "ran"), timm_folder / other)
    (timm_folder / "adapter_model.safetensors").write_bytes(b"none")
    read = load_classifier(str(timm_folder), allow_pickle=True)
    assert torch.equal(read(pixels()), before(pixels()))
    assert not (tmp_path / "ran").exists()


def test_a_trainers_folder_of_transformers(resnet_folder):
    before = load_classifier(str(resnet_folder))
    torch.save(load_file(resnet_folder / "model.safetensors"), resnet_folder / "pytorch_model.bin")
    (resnet_folder / "model.safetensors").unlink()
    torch.save({"lr": 1}, resnet_folder / "training_args.bin")
    torch.save({"state": {}}, resnet_folder / "optimizer.pt")
    refused(resnet_folder, "no safetensors file; pass allow_pickle=true")
    read = load_classifier(str(resnet_folder), allow_pickle=True)
    assert torch.equal(read(pixels(24)), before(pixels(24)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter.*merge_and_unload"),
        (["model.onnx"], "weights for ONNX only; use the PyTorch checkpoint"),
        (["onnx/model.onnx", "tf_model.h5"], "weights for Keras and ONNX only"),
        (["checkpoint-5/model.safetensors", "optimizer.pt"], r"in subfolders only \(checkpoint-5\)"),
        (["one.safetensors", "two.safetensors"], "several weights files"),
        ([], "no weights file; put model.safetensors there"),
    ],
)
@pytest.mark.parametrize("allow", [True, False])
def test_folders_without_weights_of_their_own(timm_folder, files, words, allow):
    (timm_folder / "model.safetensors").unlink()
    for name in files:
        (timm_folder / name).parent.mkdir(exist_ok=True)
        (timm_folder / name).write_bytes(b"{}")
    refused(timm_folder, words, allow_pickle=allow)


# ---------------------------------------------------------------------------------------- names in files


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"net": {f"module.{name}": value for name, value in t.items()}, "acc": 95.0},
        lambda t: {"state_dict": {f"model._orig_mod.{name}": value for name, value in t.items()}},
        lambda t: {"model": t, "optimizer": {"state": {}}, "epoch": 3},
        lambda t: {"netC": t, "best_clean_acc": 0.9},
        lambda t: {"model_state": {"state_dict": {f"network.{name}": value for name, value in t.items()}}},
        lambda t: {name: value for name, value in t.items() if "num_batches_tracked" not in name},
        lambda t: t | {"total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)},
        lambda t: {f"module.{name}": value for name, value in t.items()} | {"total_ops": torch.zeros(1)},
    ],
)
def test_wrappers_prefixes_and_leftovers(timm_folder, tmp_path, wrap):
    tensors = load_file(timm_folder / "model.safetensors")
    torch.save(wrap(tensors), tmp_path / "weights.pth")
    read = load_classifier(str(tmp_path / "weights.pth"), **PICKLED | {"interpolation": "bicubic"})
    assert torch.equal(read(pixels()), load_classifier(str(timm_folder))(pixels()))


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", ["labels", "label_names"])
def test_labels_in_older_configurations_of_timm(timm_folder, name, inner):
    config = json.loads((timm_folder / "config.json").read_text())
    config.pop("label_names", None)
    config["pretrained_cfg"].pop("label_names", None)
    (config["pretrained_cfg"] if inner else config)[name] = ["x", "y", "z"]
    (timm_folder / "config.json").write_text(json.dumps(config))
    assert load_classifier(str(timm_folder)).spec.labels == ("x", "y", "z")


# ----------------------------------------------------------------------------------------------- 3x3 stems


def stem_of(*, pool, stride):
    model = cifar_resnet(3)
    model.conv1.stride = (stride, stride)
    if pool:
        model.maxpool = nn.MaxPool2d(3, 2, 1)
    return model


def stem_args(pool, stride):
    return ({"stem_pool": True} if pool else {}) | ({"stem_stride": stride} if stride > 1 else {})


@pytest.mark.parametrize(("pool", "stride"), [(False, 1), (True, 1), (False, 2), (True, 2)])
@pytest.mark.parametrize("form", ["folder", "file"])
def test_the_stem_that_the_weights_do_not_show(tmp_path, caplog, form, pool, stride):
    """One is assumed aloud, and what the warning says gives every other one."""
    model = stem_of(pool=pool, stride=stride)
    data = CFG | {"input_size": (3, 32, 32)}
    save_for_hf(model, str(tmp_path / "x"), {}, safe_serialization=True, data_config=data)
    bare = {"architecture": "resnet18", "mean": MEAN, "std": STD, "input_size": 32}
    given = (str(tmp_path / "x"), {}) if form == "folder" else (str(tmp_path / "x/model.safetensors"), bare)

    with caplog.at_level(logging.WARNING):
        guessed = load_classifier(given[0], **given[1])
    assert "stride 1 and without a max-pool" in caplog.text and "{stem_pool: true}" in caplog.text
    caplog.clear()
    args = stem_args(pool, stride) or {"stem_pool": False}
    with caplog.at_level(logging.WARNING):
        read = load_classifier(given[0], **given[1], model_args=args)
    assert caplog.text == ""
    same(read, model, 32)
    assert torch.allclose(guessed(pixels(32)), read(pixels(32))) == (not pool and stride == 1)

    save_timm_folder(read, tmp_path / "saved")
    same(load_classifier(str(tmp_path / "saved")), model, 32)


def test_other_arguments_of_a_network(tmp_path):
    """The message on a misfit names the option that repairs it."""
    model = shaken(timm.create_model("resnet18", num_classes=3, stem_type="deep", stem_width=32))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    bare = {"architecture": "resnet18", "mean": MEAN, "std": STD, "input_size": 32}
    line = refused(tmp_path / "weights.safetensors", "does not fit resnet18 .*conv1", **bare)
    assert line.endswith("pass the model_args with which the network was built")
    args = {"stem_type": "deep", "stem_width": 32}
    same(load_classifier(str(tmp_path / "weights.safetensors"), **bare, model_args=args), model, 32)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"stem_pool": "no"}, "model_args: stem_pool is 'no'; use true or false"),
        ({"stem_stride": 0}, "model_args: stem_stride is 0"),
        ({"num_classes": 3}, "model_args: num_classes follows from labels"),
        ({"checkpoint_path": "x"}, "model_args: 'checkpoint_path'"),
    ],
)
def test_wrong_arguments_of_a_network(timm_folder, args, words):
    refused(timm_folder, words, model_args=args)


def test_networks_of_transformers_take_no_arguments(resnet_folder):
    refused(resnet_folder, "model_args: resnet is a transformers checkpoint", model_args={"stem_pool": True})
