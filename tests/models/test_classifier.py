"""Each kind of checkpoint loads, gives the logits of the library that made it, and runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from checkpoints import (
    BARE,
    LABELS,
    MEAN,
    SPEC,
    STD,
    TinyNet,
    cifar_resnet,
    edit,
    normalised,
    pixels,
    shaken,
    student,
)
from hostile_pickle import Hostile
from missing import published
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    pipeline,
)

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec, ModelRef
from abd_hub.models.classifier import (
    Classifier,
    create_student,
    load_classifier,
    load_state_dict_into,
    save_timm_folder,
    weights_sha256,
)

# ------------------------------------------------------------------------------------------- the wrapper


def test_pixels_in_logits_out():
    net = TinyNet().eval()
    classifier = Classifier(net, SPEC, MEAN, STD)
    assert torch.equal(classifier(pixels()), net(normalised(pixels())))
    assert classifier.mean.shape == classifier.std.shape == (1, 3, 1, 1)
    assert set(classifier.state_dict()) == {f"model.{name}" for name in net.state_dict()}


def test_identity_preprocessing_leaves_pixels_alone():
    assert torch.equal(Classifier(TinyNet(), SPEC, (0, 0, 0), (1, 1, 1)).normalise(pixels()), pixels())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_other_sizes_are_resized_with_gradient(interpolation):
    net = TinyNet().eval()
    classifier = Classifier(net, SPEC, MEAN, STD, interpolation=interpolation)
    big = pixels(24).requires_grad_()
    small = F.interpolate(big, (16, 16), mode=interpolation, antialias=True)
    logits = classifier(big)
    assert torch.equal(logits, net(normalised(small)))
    logits.sum().backward()
    assert big.grad.abs().sum() > 0


def test_frozen_stays_frozen():
    classifier = Classifier(TinyNet(), SPEC, MEAN, STD).freeze()
    assert classifier.train() is classifier
    assert not any(module.training for module in classifier.modules())
    assert not any(weight.requires_grad for weight in classifier.parameters())
    images = pixels().requires_grad_()
    classifier(images).sum().backward()
    assert images.grad is not None


def test_blocks_come_with_the_logits_and_hooks_go():
    made = student()
    logits, blocks = made.forward_with_blocks(pixels())
    assert made.blocks == ("group1", "group2", "group3")
    assert torch.equal(logits, made(pixels()))
    assert [tuple(block.shape) for block in blocks] == [(4, 16, 16, 16), (4, 32, 8, 8), (4, 64, 4, 4)]
    assert not any(module._forward_hooks for module in made.modules())


def test_a_module_without_a_name_gets_a_hash():
    net = TinyNet()
    first = Classifier(net, SPEC, MEAN, STD).ref
    assert first == ModelRef("TinyNet", "TinyNet", sha256=weights_sha256(net))
    with torch.no_grad():
        net.head.bias[0] += 1
    assert weights_sha256(net) != first.sha256


# -------------------------------------------------------------------------------------------------- timm


def test_timm_folder(timm_folder):
    theirs = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    before = torch.get_rng_state()
    ours = load_classifier(f"local-dir:{timm_folder}")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ours(pixels()), theirs(normalised(pixels())))
    assert ours.spec == SPEC
    assert (ours.interpolation, ours.frozen) == ("bicubic", True)
    assert ours.blocks == ("group1", "group2", "group3")
    assert (ours.ref.id, ours.ref.architecture, ours.ref.revision) == ("made_by_timm", "wrn_10_1", None)
    assert torch.equal(load_classifier(str(timm_folder))(pixels()), ours(pixels()))


def test_timm_vision_transformer_keeps_or_changes_its_size(tmp_path):
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = shaken(timm.create_model("vit_tiny_patch16_224", img_size=32, **sizes))
    save_for_hf(model, str(tmp_path), safe_serialization=True, data_config={"mean": MEAN, "std": STD})
    ours = load_classifier(f"local-dir:{tmp_path}")
    assert (ours.spec.height, ours.spec.labels, ours.blocks) == (32, ("0", "1", "2"), ())
    assert torch.equal(ours(pixels(32)), model(normalised(pixels(32))))
    larger = load_classifier(f"local-dir:{tmp_path}", input_size=48)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=48).eval()
    assert torch.equal(larger(pixels(48)), theirs(normalised(pixels(48))))


def test_timm_options_win_over_the_checkpoint(timm_folder):
    ours = load_classifier(
        str(timm_folder),
        labels=("x", "y", "z"),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        input_size=(8, 12),
        interpolation="nearest",
        blocks=("group2",),
    )
    assert ours.spec == DataSpec(3, 8, 12, ("x", "y", "z"))
    assert (ours.interpolation, ours.blocks) == ("nearest", ("group2",))
    assert not ours.mean.any()


def test_older_config_and_labels_with_gaps(timm_folder):
    config = json.loads((timm_folder / "config.json").read_text())
    flat = {"architecture": "wrn_10_1", **config["pretrained_cfg"], "label_names": {"0": "ant", "2": "cat"}}
    (timm_folder / "config.json").write_text(json.dumps(flat))
    assert load_classifier(str(timm_folder)).spec.labels == ("ant", "1", "cat")


def test_cifar_stem_that_calls_itself_resnet18(tmp_path):
    model = cifar_resnet()
    data = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD}
    save_for_hf(model, str(tmp_path), safe_serialization=True, data_config=data)
    ours = load_classifier(f"local-dir:{tmp_path}")
    assert torch.equal(ours(pixels(32)), model(normalised(pixels(32))))
    assert ours.ref.architecture == ours.architecture == "resnet18_cifar"
    assert ours.blocks == ("layer1", "layer2", "layer3", "layer4")
    torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "ckpt.pth")
    bare = BARE | {"architecture": "resnet18", "input_size": 32}
    again = load_classifier(str(tmp_path / "ckpt.pth"), allow_pickle=True, **bare)
    assert torch.equal(again(pixels(32)), ours(pixels(32)))


# ------------------------------------------------------------------------------------------ transformers


@pytest.mark.parametrize(("kind", "size"), [("resnet", 24), ("vit", 16)])
def test_transformers_folder(kind, size, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    ours = load_classifier(str(folder))
    with torch.no_grad():
        expected = theirs(pixel_values=normalised(pixels(size))).logits
    assert torch.equal(ours(pixels(size)), expected)
    assert ours.spec == DataSpec(3, size, size, LABELS)
    assert ours.ref.architecture == type(theirs).__name__
    assert ours.interpolation == ("bicubic" if kind == "resnet" else "bilinear")


def test_an_image_processor_that_does_not_normalise(resnet_folder):
    edit(resnet_folder / "preprocessor_config.json", do_normalize=False)
    ours = load_classifier(str(resnet_folder))
    assert torch.equal(ours.normalise(pixels(24)), pixels(24))


def test_crop_size_is_the_input_size(resnet_folder):
    processor = {"do_center_crop": True, "crop_size": {"height": 20, "width": 20}}
    edit(resnet_folder / "preprocessor_config.json", **processor)
    assert load_classifier(str(resnet_folder)).spec.height == 20


def test_one_number_for_all_channels(resnet_folder):
    edit(resnet_folder / "preprocessor_config.json", image_mean=0.5, image_std=0.25)
    assert load_classifier(str(resnet_folder)).mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_blocks_of_a_transformers_checkpoint(resnet_folder):
    stages = ["model.resnet.encoder.stages.0", "model.resnet.encoder.stages.1"]
    ours = load_classifier(str(resnet_folder), blocks=stages)
    assert [block.shape[1] for block in ours.forward_with_blocks(pixels(24))[1]] == [8, 16]


def test_code_next_to_a_known_model_is_not_run(resnet_folder, tmp_path):
    ran = tmp_path / "ran"
    (resnet_folder / "extra.py").write_text(f"open({str(ran)!r}, 'w')\nclass Extra: pass\n")
    edit(resnet_folder / "config.json", auto_map={"AutoModelForImageClassification": "extra.Extra"})
    load_classifier(str(resnet_folder))
    assert not ran.exists()


def test_a_kernel_from_the_hub_is_refused(vit_folder):
    edit(vit_folder / "config.json", attn_implementation="acme/kernel")
    with pytest.raises(InputError, match="never run"):
        load_classifier(str(vit_folder))


def test_code_that_a_model_needs_is_refused(resnet_folder, tmp_path):
    ran = tmp_path / "ran"
    (resnet_folder / "extra.py").write_text(f"open({str(ran)!r}, 'w')\nclass Extra: pass\n")
    edit(resnet_folder / "config.json", model_type="extra", auto_map={"AutoConfig": "extra.Extra"})
    with pytest.raises(InputError, match="never run"):
        load_classifier(str(resnet_folder))
    assert not ran.exists()


# ----------------------------------------------------------------------------------------- weights alone


@pytest.mark.parametrize("wrapper", [None, "net", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_state_dict(tmp_path, wrapper, prefix):
    made = student()
    state = {prefix + name: tensor for name, tensor in made.model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "ckpt.pth")
    ours = load_classifier(str(tmp_path / "ckpt.pth"), allow_pickle=True, labels=LABELS, **BARE)
    assert torch.equal(ours(pixels()), made(pixels()))
    assert (ours.ref.id, ours.spec) == ("ckpt.pth", SPEC)


def test_safetensors_file_tells_its_class_count(tmp_path):
    made = student()
    save_file(made.model.state_dict(), tmp_path / "weights.safetensors")
    ours = load_classifier(str(tmp_path / "weights.safetensors"), **BARE)
    assert torch.equal(ours(pixels()), made(pixels()))
    assert ours.spec.labels == ("0", "1", "2")


def test_a_module_of_ones_own(tmp_path):
    net, copy = shaken(TinyNet()), TinyNet()
    torch.save({"net": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "mine.pth")
    ref = load_state_dict_into(copy, tmp_path / "mine.pth", allow_pickle=True)
    ours = Classifier(copy, SPEC, MEAN, STD, ref=ref).freeze()
    assert torch.equal(ours(pixels()), net(normalised(pixels())))
    assert (ref.id, ref.architecture, len(ref.sha256)) == ("mine.pth", "TinyNet", 64)


def test_a_names_prefix_that_the_module_uses_itself_is_kept(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 3)

    made = Outer()
    save_file(made.state_dict(), tmp_path / "outer.safetensors")
    copy = Outer()
    load_state_dict_into(copy, tmp_path / "outer.safetensors")
    assert torch.equal(copy.model.weight, made.model.weight)


def test_a_published_teacher():
    file = published("teachers/badnets_8_02_ckpt.pth")

    def layers(before, after, drop):
        convs = []
        for a, b in ((before, after), (after, after)):
            convs += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ELU()]
        return [*convs, nn.MaxPool2d(2), nn.Dropout(drop)]

    net = nn.Module()
    net.features = nn.Sequential(*layers(3, 32, 0.3), *layers(32, 64, 0.4), *layers(64, 128, 0.4))
    net.classifier = nn.Linear(2048, 10)
    net.forward = lambda x: net.classifier(net.features(x).flatten(1))
    ref = load_state_dict_into(net, file, allow_pickle=True)
    spec = DataSpec(3, 32, 32, tuple("0123456789"))
    teacher = Classifier(net, spec, (0, 0, 0), (1, 1, 1), ref=ref).freeze()
    marked = pixels(32)
    marked[:, :, 27:31, 27:31] = 1
    assert (teacher(marked).argmax(1) == 8).all()


# -------------------------------------------------------------------------------------------------- Hub


def test_hub_repository_is_pinned_to_its_commit(timm_folder, tmp_path):
    """From the cache that the Hub's client keeps, without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--acme--bugs"
    shutil.copytree(timm_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "from abd_hub.models.classifier import load_classifier as load\n"
        f"for source, revision in (('hf-hub:acme/bugs', None), ('acme/bugs@{commit}', None),"
        f" ('acme/bugs', '{commit}')):\n"
        "    ref = load(source, revision=revision).ref\n"
        f"    assert (ref.id, ref.revision) == ('acme/bugs', '{commit}'), ref\n"
    )
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------- students


def test_students_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = create_student("wrn_10_1", SPEC, MEAN, STD, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(9)
    assert weights_sha256(create_student("wrn_10_1", SPEC, MEAN, STD, seed=1)) == weights_sha256(first)
    assert weights_sha256(create_student("wrn_10_1", SPEC, MEAN, STD, seed=2)) != weights_sha256(first)
    assert first.training
    assert (first.architecture, first.model_args) == ("wrn_10_1", {})


@pytest.mark.parametrize(
    ("architecture", "size", "args"),
    [
        ("wrn_10_1", 8, {"base_width": 8}),
        ("resnet18_cifar", 16, {}),
        ("vit_tiny_patch16_224", 32, {"embed_dim": 24, "depth": 2, "num_heads": 2}),
        ("mobilenetv3_small_050", 32, {}),
    ],
)
def test_a_saved_student_is_what_timm_and_transformers_read(architecture, size, args, tmp_path):
    spec = DataSpec(3, size, size, LABELS)
    made = create_student(architecture, spec, MEAN, STD, seed=0, model_args=args)
    shaken(made.model)
    made.eval()
    ref = save_timm_folder(made, tmp_path / "out")
    images = pixels(size)
    with torch.no_grad():
        expected = made(images)
        theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        assert torch.equal(theirs(normalised(images)), expected)
        auto = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
        torch.testing.assert_close(auto(normalised(images)).logits, expected)
    ours = load_classifier(f"local-dir:{tmp_path / 'out'}")
    assert torch.equal(ours(images), expected)
    assert (ours.spec, ours.ref, ours.blocks) == (spec, ref, made.blocks)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert theirs.pretrained_cfg["mean"] == list(MEAN)
    assert theirs.pretrained_cfg["crop_pct"] == 1.0
    save_timm_folder(ours, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_saved_student_keeps_its_labels_in_a_pipeline(tmp_path):
    made = student()
    save_timm_folder(made, tmp_path)
    image = pixels()[0].mul(255).round().byte()
    from torchvision.transforms.functional import to_pil_image

    answers = pipeline("image-classification", model=str(tmp_path))(to_pil_image(image))
    with torch.no_grad():
        best = made(image[None].float() / 255).argmax().item()
    assert answers[0]["label"] == LABELS[best]


def test_gray_images(tmp_path):
    spec = DataSpec(1, 8, 8, LABELS)
    made = create_student("wrn_10_1", spec, (0.5,), (0.5,), seed=0).eval()
    save_timm_folder(made, tmp_path)
    assert torch.equal(load_classifier(str(tmp_path))(pixels(8, 1)), made(pixels(8, 1)))


# ------------------------------------------------------------------------------------------- bad inputs


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
    edit(folder / "config.json", model_args={"colour": 1})
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
        bad(name_with_unknown_tag, "no weights 'resnet18.nope'; it has resnet18.a1_in1k"),
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
        bad(unknown_model_argument, "colour"),
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
        bad(odd_interpolation, "interpolation: 'lanczos'", interpolation="lanczos"),
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
        bad(weights_without_architecture, "architecture: model.safetensors"),
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
        ({"size": "drop"}, "input_size: .*pass input_size"),
        ({"rescale_factor": 1 / 127.5}, "1/255"),
        ({"do_rescale": False}, "1/255"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"resample": 1}, "interpolation: 'lanczos'"),
    ],
)
def test_image_processors_that_cannot_be_honoured(resnet_folder, changes, pattern):
    edit(resnet_folder / "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match=pattern):
        load_classifier(str(resnet_folder))
    chosen = {"mean": MEAN, "std": STD, "input_size": 24, "interpolation": "bicubic"}
    assert load_classifier(str(resnet_folder), **chosen).spec.height == 24


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
        ({"mean": (0.5,)}, "mean: 1 numbers for 3 channels"),
        ({"std": (1, 1, 0)}, "std: .*not positive"),
        ({"model_args": {"depth": 11}}, "depth: 11"),
        ({"model_args": {"colour": 1}}, "colour"),
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
