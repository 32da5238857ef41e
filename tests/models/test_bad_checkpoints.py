"""What is no checkpoint, or not the one that is described, is refused in one clear line and runs nothing."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from checkpoints import (
    BARE,
    LABELS,
    MEAN,
    SPEC,
    STD,
    TinyNet,
    edit,
)
from hostile_pickle import Hostile
from safetensors.torch import load_file, save_file

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec
from abd_hub.models.classifier import (
    Classifier,
    create_student,
    load_classifier,
    load_state_dict_into,
)
from abd_hub.models.saving import save_timm_folder


def bad(make, pattern, **kwargs):
    return pytest.param(make, kwargs, pattern, id=make.__name__)


def no_such_name(_folder):
    return "resnet81"


def name_without_weights(_folder):
    return "wrn_16_1"


def name_with_unknown_tag(_folder):
    return "resnet18.nope"


def folder_or_repository_that_is_nowhere(_folder):
    return "acme/nowhere"


def class_count_that_is_a_word(folder):
    edit(folder / "config.json", num_classes="three")
    return str(folder)


def no_such_file(folder):
    return str(folder / "absent.safetensors")


def no_such_folder(folder):
    return f"local-dir:{folder}/absent"


def no_config(folder):
    (folder / "config.json").unlink()
    return str(folder)


def broken_config(folder):
    (folder / "config.json").write_text("{")
    return str(folder)


def foreign_config(folder):
    (folder / "config.json").write_text("{}")
    return str(folder)


def unknown_architecture(folder):
    edit(folder / "config.json", architecture="wrn_16_l")
    return str(folder)


def architecture_of_other_shape(folder):
    edit(folder / "config.json", architecture="wrn_16_1")
    return str(folder)


def factory_argument(folder):
    edit(folder / "config.json", model_args={"checkpoint_path": "x.pth"})
    return str(folder)


def unknown_model_argument(folder):
    edit(folder / "config.json", model_args={"color": 1})
    return str(folder)


def drop(folder, field):
    config = json.loads((folder / "config.json").read_text())
    del config["pretrained_cfg"][field]
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def no_mean(folder):
    return drop(folder, "mean")


def no_std(folder):
    return drop(folder, "std")


def no_size(folder):
    return drop(folder, "input_size")


def few_labels_in_config(folder):
    edit(folder / "config.json", label_names=["ant"])
    return str(folder)


def few_labels(folder):
    return str(folder)


def wrong_class_count(folder):
    return str(folder)


def wrong_head_size(folder):
    edit(folder / "config.json", num_classes=5, label_names=list("abcde"))
    return str(folder)


def short_mean(folder):
    return str(folder)


def zero_std(folder):
    return str(folder)


def words_for_mean(folder):
    return str(folder)


def odd_interpolation(folder):
    return str(folder)


def negative_size(folder):
    return str(folder)


def unknown_block(folder):
    return str(folder)


def revision_of_a_folder(folder):
    return str(folder)


def no_weights(folder):
    (folder / "model.safetensors").unlink()
    return str(folder)


def damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not tensors")
    return str(folder)


def nan_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["fc.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def missing_key(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["fc.bias"]
    tensors["fc.extra"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def only_a_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return str(folder)


def pickle_without_permission(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.pth")
    return str(folder / "weights.pth")


def pickle_of_a_list(folder):
    torch.save([1, 2], folder / "weights.pth")
    return str(folder / "weights.pth")


def pickle_with_other_things(folder):
    torch.save({"weight": torch.zeros(1), "epoch": 3}, folder / "weights.pth")
    return str(folder / "weights.pth")


def weights_without_architecture(folder):
    return str(folder / "model.safetensors")


def weights_without_mean(folder):
    return str(folder / "model.safetensors")


def odd_suffix(folder):
    shutil.copy(folder / "model.safetensors", folder / "weights.dat")
    return str(folder / "weights.dat")


@pytest.mark.parametrize(
    ("make", "kwargs", "pattern"),
    [
        bad(no_such_name, "resnet81.*did you mean"),
        bad(name_without_weights, "no pretrained weights.*wrn_16_1"),
        bad(name_with_unknown_tag, "no weights 'resnet18.nope'; use one of resnet18.a1_in1k"),
        bad(folder_or_repository_that_is_nowhere, "'acme/nowhere' is no folder here"),
        bad(class_count_that_is_a_word, "num_classes: made_by_timm does not give it"),
        bad(no_such_file, "absent.safetensors.*does not exist"),
        bad(no_such_folder, "absent.*does not exist"),
        bad(no_config, "no config.json; pass architecture"),
        bad(broken_config, "config.json cannot be read"),
        bad(foreign_config, "neither timm's nor transformers'"),
        bad(unknown_architecture, "architecture: 'wrn_16_l'.*wrn_16_1"),
        bad(architecture_of_other_shape, "weights: .*missing group1.1"),
        bad(factory_argument, "model_args: 'checkpoint_path'"),
        bad(unknown_model_argument, "color"),
        bad(no_mean, "mean: config.json.*pass mean"),
        bad(no_std, "std: config.json.*pass std"),
        bad(no_size, "input_size: config.json.*pass input_size"),
        bad(few_labels_in_config, "labels: made_by_timm names 1 for 3 classes"),
        bad(few_labels, "labels: 2 given for 3", labels=("a", "b")),
        bad(wrong_class_count, "num_classes: 4 given", num_classes=4),
        bad(wrong_head_size, r"fc.weight \(3, 64\) instead of \(5, 64\)"),
        bad(short_mean, "std: 3 numbers for 1 of mean", mean=(0.5,)),
        bad(zero_std, "std: .*not positive", std=(1, 0, 1)),
        bad(words_for_mean, "mean: .*not a list of numbers", mean=("a", "b", "c")),
        bad(odd_interpolation, "interpolation: 'random'", interpolation="random"),
        bad(negative_size, "input_size: -1", input_size=-1),
        bad(unknown_block, "blocks: 'layer9'", blocks=("layer9",)),
        bad(revision_of_a_folder, "revision: 'main' has no meaning", revision="main"),
        bad(no_weights, "no weights file"),
        bad(damaged_weights, "not a safetensors file"),
        bad(nan_weights, "fc.bias in model.safetensors holds NaN"),
        bad(missing_key, "missing fc.bias; unexpected fc.extra"),
        bad(only_a_pickle, "no safetensors file; pass allow_pickle=true"),
        bad(pickle_without_permission, "weights.pth is a pickle", **BARE),
        bad(pickle_of_a_list, "holds list", allow_pickle=True, **BARE),
        bad(pickle_with_other_things, "epoch in weights.pth are not tensors", allow_pickle=True, **BARE),
        bad(weights_without_architecture, "architecture, mean, std, input_size: model.safetensors"),
        bad(weights_without_mean, "mean: .*pass mean", architecture="wrn_10_1", std=STD, input_size=16),
        bad(odd_suffix, "weights.dat is no known format", **BARE),
    ],
)
def test_bad_input_is_one_clear_line(timm_folder, make, kwargs, pattern):
    source = make(timm_folder)
    with pytest.raises(InputError, match=pattern) as caught:
        load_classifier(source, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"image_mean": "drop"}, "mean: the image processor of resnet does not give it; pass mean"),
        ({"image_std": "drop"}, "std: .*pass std"),
        ({"rescale_factor": 0}, "1/255"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"resample": 9}, "interpolation: 9"),
    ],
)
def test_image_processors_that_cannot_be_honoured(resnet_folder, changes, pattern):
    edit(resnet_folder / "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match=pattern):
        load_classifier(str(resnet_folder))
    chosen = {"mean": MEAN, "std": STD, "input_size": 24, "interpolation": "bicubic"}
    crop = {"crop_pct": 1.0, "crop_mode": "squash"}
    assert load_classifier(str(resnet_folder), **chosen, **crop).spec.height == 24


def test_transformers_weights_that_do_not_fit(resnet_folder):
    tensors = load_file(resnet_folder / "model.safetensors")
    del tensors["classifier.1.bias"]
    save_file(tensors, resnet_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"classifier\.1\.bias"):
        load_classifier(str(resnet_folder))


def test_a_vision_transformer_of_another_size(vit_folder):
    with pytest.raises(InputError, match="input_size: vit does not take 3x20x20"):
        load_classifier(str(vit_folder), input_size=20)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
@pytest.mark.parametrize("allow", [False, True])
def test_a_pickle_that_would_run_code(tmp_path, save, allow):
    ran = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    save({"net": Hostile(ran)}, folder / "pytorch_model.bin")
    config = {
        "architecture": "wrn_10_1",
        "pretrained_cfg": {"input_size": [3, 8, 8], "mean": MEAN, "std": STD},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for source, options in ((folder, {}), (folder / "pytorch_model.bin", BARE)):
        with pytest.raises(InputError, match="weights: "):
            load_classifier(str(source), allow_pickle=allow, **options)
    with pytest.raises(InputError, match="weights: "):
        load_state_dict_into(TinyNet(), folder / "pytorch_model.bin", allow_pickle=allow)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (torch.zeros(1, 1, 8, 8), "(N, 3, H, W)"),
        (torch.zeros(3, 8, 8), "(N, 3, H, W)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_bad_pixels(images, pattern):
    with pytest.raises(InputError) as caught:
        Classifier(TinyNet(), SPEC, MEAN, STD)(images)
    assert pattern in str(caught.value)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"architecture": "wrn_16_l"}, "architecture: 'wrn_16_l'.*wrn_16_1"),
        ({"mean": (0.5,)}, "mean: has 1 numbers for 3 channels"),
        ({"std": (1, 1, 0)}, "std: .*not positive"),
        ({"model_args": {"depth": 11}}, "depth: 11"),
        ({"model_args": {"color": 1}}, "color"),
        ({"model_args": {"num_classes": 4}}, "model_args: num_classes"),
        ({"pretrained": True}, "no pretrained weights"),
        ({"architecture": "vit_tiny_patch16_224", "spec": DataSpec(3, 8, 8, LABELS)}, "vit_tiny_patch16_224"),
    ],
)
def test_bad_students(change, pattern):
    args = {"architecture": "wrn_10_1", "spec": SPEC, "mean": MEAN, "std": STD, "seed": 0} | change
    with pytest.raises(InputError, match=pattern) as caught:
        create_student(**args)
    assert "\n" not in str(caught.value)


def test_a_module_timm_does_not_know_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match="TinyNet"):
        save_timm_folder(Classifier(TinyNet(), SPEC, MEAN, STD), tmp_path / "out")
    assert not (tmp_path / "out").exists()
