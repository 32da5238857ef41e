"""Each kind of checkpoint loads, gives the logits of the library that made it, and runs nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
import quick_python
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
    normalized,
    pixels,
    shaken,
    student,
)
from missing import published
from safetensors.torch import save_file
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
    weights_sha256,
)
from abd_hub.models.saving import save_timm_folder

# ------------------------------------------------------------------------------------------- the wrapper


def test_pixels_in_logits_out():
    net = TinyNet().eval()
    classifier = Classifier(net, SPEC, MEAN, STD)
    assert torch.equal(classifier(pixels()), net(normalized(pixels())))
    assert classifier.mean.shape == classifier.std.shape == (1, 3, 1, 1)
    assert set(classifier.state_dict()) == {f"model.{name}" for name in net.state_dict()}


def test_identity_preprocessing_leaves_pixels_alone():
    assert torch.equal(Classifier(TinyNet(), SPEC, (0, 0, 0), (1, 1, 1)).normalize(pixels()), pixels())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_other_sizes_are_resized_with_gradient(interpolation):
    net = TinyNet().eval()
    classifier = Classifier(net, SPEC, MEAN, STD, interpolation=interpolation)
    big = pixels(24).requires_grad_()
    small = F.interpolate(big, (16, 16), mode=interpolation, antialias=True)
    logits = classifier(big)
    torch.testing.assert_close(logits, net(normalized(small)), rtol=0, atol=0.01)  # bicubic is cut to [0, 1]
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
    assert torch.equal(ours(pixels()), theirs(normalized(pixels())))
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
    assert torch.equal(ours(pixels(32)), model(normalized(pixels(32))))
    larger = load_classifier(f"local-dir:{tmp_path}", input_size=48)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=48).eval()
    assert torch.equal(larger(pixels(48)), theirs(normalized(pixels(48))))


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
    assert torch.equal(ours(pixels(32)), model(normalized(pixels(32))))
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
        expected = theirs(pixel_values=normalized(pixels(size))).logits
    assert torch.equal(ours(pixels(size)), expected)
    assert ours.spec == DataSpec(3, size, size, LABELS)
    assert ours.ref.architecture == type(theirs).__name__
    assert ours.interpolation == ("bicubic" if kind == "resnet" else "bilinear")


def test_an_image_processor_that_does_not_normalize(resnet_folder):
    edit(resnet_folder / "preprocessor_config.json", do_normalize=False)
    ours = load_classifier(str(resnet_folder))
    assert torch.equal(ours.normalize(pixels(24)), pixels(24))


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
    assert torch.equal(ours(pixels()), net(normalized(pixels())))
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


def test_an_old_checkpoint_without_the_counters_of_batch_norm(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    tensors = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    save_file(tensors, tmp_path / "old.safetensors")
    copy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    load_state_dict_into(copy, tmp_path / "old.safetensors")
    assert all(torch.equal(copy.state_dict()[name], tensor) for name, tensor in tensors.items())


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
        [quick_python.executable(), "-c", script], env=env, capture_output=True, text=True, check=False
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
        assert torch.equal(theirs(normalized(images)), expected)
        auto = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
        torch.testing.assert_close(auto(normalized(images)).logits, expected)
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
