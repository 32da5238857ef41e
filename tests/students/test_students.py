"""The students speak timm's protocol and have the sizes that the paper gives."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import abd_hub.students  # noqa: F401 - registers them with timm
from abd_hub.core import registry
from abd_hub.students.wide_resnet import NarrowProjection, WideResNet

# parameters in millions, multiply-adds in millions at 3x32x32
SIZES = {
    "wrn_10_1": (0.08, 13),
    "wrn_16_1": (0.18, 27),
    "wrn_16_2": (0.69, 101),
    "wrn_40_1": (0.56, 83),
    "wrn_40_2": (2.24, 328),
    "resnet18_cifar": (11.17, 555),
}


def multiply_adds(model: nn.Module, size: int) -> int:
    counts = []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        counts.append(
            module.weight.numel() * output[0, 0].numel() if output.ndim == 4 else module.weight.numel()
        )

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.rand(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return sum(counts)


def test_the_table_is_complete():
    assert {entry.name for entry in registry.catalog("students")} == set(SIZES)
    assert all(entry.summary.endswith(".") for entry in registry.catalog("students"))


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_papers(name):
    model = timm.create_model(name)
    millions, adds = SIZES[name]
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 2) == millions
    assert round(multiply_adds(model, 32) / 1e6) == adds


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 64)])
def test_any_small_image(name, channels, size):
    model = timm.create_model(name, num_classes=7, in_chans=channels).eval()
    images = torch.rand(2, channels, size, size)
    with torch.no_grad():
        features = model.forward_features(images)
        logits = model(images)
        assert torch.equal(model.forward_head(features), logits)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert logits.shape == (2, model.num_classes) == (2, 7)
    assert features.shape[1] == model.num_features


@pytest.mark.parametrize("name", SIZES)
def test_feature_info_tells_the_truth(name):
    model = timm.create_model(name).eval()
    seen = {}
    for entry in model.feature_info:
        module = model.get_submodule(entry["module"])
        module.register_forward_hook(lambda _m, _i, out, key=entry["module"]: seen.update({key: out.shape}))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    for entry in model.feature_info:
        side = 32 // entry["reduction"]
        assert seen[entry["module"]] == (1, entry["num_chs"], side, side)


@pytest.mark.parametrize("name", SIZES)
def test_a_new_head(name):
    model = timm.create_model(name).eval()
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert model(torch.rand(1, 3, 16, 16)).shape == (1, 3)
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.get_submodule(model.get_classifier(name_only=True)) is model.get_classifier()
    model.reset_classifier(0)
    assert model(torch.rand(1, 3, 16, 16)).shape == (1, model.head_hidden_size)


def test_wide_residual_networks_begin_as_in_the_paper():
    torch.manual_seed(0)
    model = WideResNet(depth=16, widen=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
    assert not model.fc.bias.any()


def test_the_shortcut_projects_the_activated_input():
    model = WideResNet(depth=10, widen=2).eval()
    block = model.group1[0]
    x = torch.randn(2, 16, 8, 8)
    active = torch.relu(block.norm1(x))
    expected = block.conv2(torch.relu(block.norm2(block.conv1(active)))) + block.shortcut(active)
    assert torch.equal(block(x), expected)
    assert [model.group1[0].shortcut.stride, model.group2[0].shortcut.stride] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("depth", [4, 15, 18])
def test_a_depth_that_is_not_6n_plus_4(depth):
    with pytest.raises(ValueError, match="6n"):
        WideResNet(depth=depth)


def test_widths_can_be_chosen():
    model = timm.create_model("wrn_10_1", base_width=8, num_classes=4)
    assert [entry["num_chs"] for entry in model.feature_info] == [8, 16, 32]
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_a_narrow_projection_is_a_strided_convolution():
    narrow = NarrowProjection(4, 8, 1, 2, bias=False).double()
    pixels = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(narrow(pixels), nn.functional.conv2d(pixels, narrow.weight, stride=2))


def test_narrow_networks_train_with_the_channels_last():
    """The heap was damaged within a few steps where oneDNN wrote the gradient of a strided projection."""
    student = WideResNet(num_classes=10, depth=10, base_width=4).to(memory_format=torch.channels_last)
    strided = [m for m in student.modules() if type(m) is nn.Conv2d and m.kernel_size == (1, 1)]
    assert all(module.stride == (1, 1) for module in strided)
    pixels = torch.rand(8, 3, 8, 8).to(memory_format=torch.channels_last)
    for _ in range(20):
        student(pixels).sum().backward()
