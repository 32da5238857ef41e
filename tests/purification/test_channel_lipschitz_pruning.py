"""Channel Lipschitz pruning against the paper's formula, and the pairs of layers in real architectures."""

from __future__ import annotations

import copy
import json
import math
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from planted import planted
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.densenet import DenseNet
from timm.models.resnetv2 import ResNetV2
from torch import nn

import abd_hub.students  # noqa: F401 - registers them with timm
from abd_hub import ChannelLipschitzPruning, Classifier, DataSpec, InputError
from abd_hub.core import registry
from abd_hub.purification.channel_lipschitz_pruning import (
    Layer,
    channel_bounds,
    find_layers,
    steep_channels,
)

IMAGES = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def wrapped(net, size=32):
    """A frozen classifier of ten classes; its BatchNorms have uneven weights and statistics."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(0.5 + torch.rand(len(tensor), generator=chance))
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(0.1 * torch.randn(len(tensor), generator=chance))
    spec = DataSpec(3, size, size, tuple("0123456789"))
    return Classifier(net, spec, (0.4,) * 3, (0.3,) * 3).freeze()


def pairs(classifier):
    """Each BatchNorm's name, with "after" or "before" and the names of its convolutions."""
    names = {module: name for name, module in classifier.model.named_modules()}
    found = {}
    for layer in find_layers(classifier, IMAGES[:1]):
        side = "after" if layer.follows else "before"
        met = " ".join(names[each] for each in layer.convolutions)
        found[layer.name] = f"{side} {met}" if met else "left"
    return found


def largest_singular_value(matrix):
    return np.linalg.svd(matrix.astype(np.float64), full_matrices=True)[1].max()


def norm_of(channels, seed=0):
    chance = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=chance))
        norm.running_var.copy_(torch.rand(channels, generator=chance))
    return norm


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_bound_of_a_convolution_with_a_norm_after_it(groups):
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(6, 12, (3, 5), groups=groups), norm_of(12)
    bounds = channel_bounds(Layer("", norm, (convolution,), follows=True))

    kernel = convolution.weight.detach().numpy()
    for channel in range(12):
        matrix = kernel[channel].reshape(6 // groups, 15)
        slope = abs(norm.weight[channel].item()) / math.sqrt(norm.running_var[channel].item() + 1e-3)
        assert bounds[channel].item() == pytest.approx(largest_singular_value(matrix) * slope, rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_bound_of_a_norm_before_two_convolutions(groups):
    torch.manual_seed(0)
    readers = (nn.Conv2d(6, 12, (3, 5), groups=groups), nn.Conv2d(6, 18, 1, groups=groups))
    norm = norm_of(6)
    bounds = channel_bounds(Layer("", norm, readers, follows=False))

    for channel in range(6):
        values = []
        for reader in readers:
            # Output o of a group reads the inputs of this group only.
            own, outputs = 6 // groups, reader.out_channels // groups
            group, place = divmod(channel, own)
            rows = range(group * outputs, (group + 1) * outputs)
            matrix = np.stack([reader.weight[row, place].detach().numpy().ravel() for row in rows])
            values.append(largest_singular_value(matrix))
        slope = abs(norm.weight[channel].item()) / math.sqrt(norm.running_var[channel].item() + 1e-3)
        assert bounds[channel].item() == pytest.approx(max(values) * slope, rel=1e-12)


def test_the_limit():
    bounds = torch.tensor([1.0] * 11 + [5.0], dtype=torch.float64)
    limit = np.mean(bounds.numpy()) + 3 * np.std(bounds.numpy(), ddof=1)
    assert limit < 5 and steep_channels(bounds, 3).tolist() == [11]
    assert steep_channels(bounds, 3.2).tolist() == []
    ten = torch.tensor([1.0] * 9 + [1e6], dtype=torch.float64)
    assert steep_channels(ten, 3).tolist() == [], "the help of the field says so"
    assert steep_channels(torch.ones(1, dtype=torch.float64), 3).tolist() == []


class Pieces(nn.Module):
    """A norm after each convolution, a depthwise one among them, and norms that nothing can be done for."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.plain = nn.BatchNorm2d(16, affine=False)
        self.norm3 = nn.BatchNorm2d(16)
        self.activation = nn.PReLU(16)
        self.last = nn.Conv2d(16, 16, 3, groups=4)
        self.norm4 = nn.BatchNorm2d(16, track_running_stats=False)
        self.fc = nn.Linear(16, 10)
        self.unused = nn.BatchNorm2d(16)

    def forward(self, pixels):
        x = F.relu(self.norm1(self.first(pixels)), inplace=True)
        x = x + F.relu6(self.norm2(self.depthwise(x)))
        x = self.norm3(self.plain(x))
        x = self.norm4(self.last(F.max_pool2d(self.activation(x), 2)))
        return self.fc(x.mean((2, 3)))


def test_pairs_of_pieces():
    assert pairs(pieces()) == {
        "norm1": "after first",
        "norm2": "after depthwise",
        "plain": "left",
        "norm3": "before last",
        "norm4": "left",
        "unused": "left",
    }


def pieces():
    torch.manual_seed(2)
    net = Pieces()
    net.norm4.register_buffer("running_mean", None)
    return bare(net)


def bare(net):
    spec = DataSpec(3, 32, 32, tuple("0123456789"))
    return Classifier(net, spec, (0.4,) * 3, (0.3,) * 3).freeze()


def test_pairs_of_post_norm_networks():
    found = pairs(wrapped(timm.create_model("test_resnet")))
    wanted = {"conv1.1": "conv1.0", "conv1.4": "conv1.3", "bn1": "conv1.6"}
    # The average pool of the shortcut is its number 0.
    wanted |= {name: _convolution_of(name, "downsample.1") for name in found if name.startswith("layer")}
    assert found == {name: f"after {convolution}" for name, convolution in wanted.items()}
    assert len(found) == 15

    own = pairs(wrapped(timm.create_model("resnet18_cifar", num_classes=10)))
    assert own == {name: f"after {_convolution_of(name, 'downsample.0')}" for name in own}
    assert len(own) == 20


def _convolution_of(norm, shortcut):
    return re.sub(r"downsample\.\d", shortcut, norm).replace("bn", "conv")


def test_pairs_of_a_network_with_norm_and_activation_in_one_module():
    found = pairs(wrapped(timm.create_model("test_efficientnet", num_classes=10)))
    assert found["bn1"] == "after conv_stem" and found["bn2"] == "after conv_head"
    block = {name: value for name, value in found.items() if name.startswith("blocks.4.0.")}
    assert block == {
        f"blocks.4.0.bn{number}": f"after blocks.4.0.conv_{kind}"
        for number, kind in ((1, "pw"), (2, "dw"), (3, "pwl"))
    }
    assert "left" not in found.values()


def test_pairs_of_the_own_pre_activation_student():
    found = pairs(wrapped(timm.create_model("wrn_16_1")))
    wanted = {"norm": "left"}
    for group in (1, 2, 3):
        for block in (0, 1):
            place = f"group{group}.{block}"
            wanted[f"{place}.norm1"] = f"before {place}.conv1"
            wanted[f"{place}.norm2"] = f"after {place}.conv1"
    for group in (2, 3):
        place = f"group{group}.0"
        wanted[f"{place}.norm1"] = f"before {place}.shortcut {place}.conv1"
    wanted["group1.0.norm1"] = "after stem"
    assert found == wanted


def test_pairs_of_other_pre_activation_networks():
    options = {"layers": (1, 1), "channels": (16, 32), "stem_type": "", "stem_chs": 8, "num_classes": 10}
    net = ResNetV2(**options, conv_layer=create_conv2d, norm_layer=BatchNormAct2d)
    found = pairs(wrapped(net))
    for stage in (0, 1):
        place = f"stages.{stage}.blocks.0"
        assert found[f"{place}.norm1"].split()[-2:] == [f"{place}.downsample.conv", f"{place}.conv1"]
        assert found[f"{place}.norm2"] == f"after {place}.conv1"
        assert found[f"{place}.norm3"] == f"after {place}.conv2"
    assert found["norm"] == "left"

    dense = pairs(wrapped(DenseNet(growth_rate=4, block_config=(2, 2), num_classes=10)))
    for block in (1, 2):
        for number in (1, 2):
            place = f"features.denseblock{block}.denselayer{number}"
            assert dense.pop(f"{place}.norm1") == f"before {place}.conv1"
            assert dense.pop(f"{place}.norm2") == f"after {place}.conv1"
    assert dense == {
        "features.norm0": "after features.conv0",
        "features.transition1.norm": "before features.transition1.conv",
        "features.norm5": "left",
    }


@pytest.mark.parametrize(
    ("norm", "channel"), [("norm1", 3), ("norm2", 15), ("norm3", 6)], ids=["after", "depthwise", "before"]
)
def test_the_steep_channel_is_pruned_and_nothing_else(norm, channel):
    teacher = pieces()
    with torch.no_grad():
        getattr(teacher.model, norm).weight[channel] = -40
        getattr(teacher.model, norm).bias.fill_(0.25)
    purified, report = ChannelLipschitzPruning().purify(teacher, IMAGES, None)

    assert report.changed and report.facts["pruned"] == {norm: [channel]}
    assert report.detail == "zeroed 1 of 48 channels in 1 of 3 layers"
    before, after = teacher.state_dict(), purified.state_dict()
    for name, tensor in before.items():
        if name in (f"model.{norm}.weight", f"model.{norm}.bias"):
            assert after[name][channel] == 0 != tensor[channel]
            tensor[channel] = 0  # on the teacher, which is not used any more
        assert torch.equal(after[name], tensor), name


def test_the_report():
    teacher = planted(0, poisoned=True, epochs=2)
    images = torch.rand(1_200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    settings, sizes = ChannelLipschitzPruning(deviations=1.5), []
    teacher.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    purified, report = settings.purify(teacher, images, None, seed=4)

    # The copy has the hook, too: one image for the layers, and 1,000 for the agreement of each of both.
    assert sum(sizes) == 2_001
    assert report.changed and 0 < report.agreement < 1
    pruned = report.facts["pruned"]
    assert report.facts == {
        "layers": 3,
        "channels": 80,
        "following": 3,
        "preceding": 0,
        "left": 0,
        "pruned": pruned,
    }
    assert (
        report.detail
        == f"zeroed {sum(map(len, pruned.values()))} of 80 channels in {len(pruned)} of 3 layers"
    )
    assert json.loads(json.dumps(report.to_json()))["facts"] == report.facts
    again, repeated = settings.purify(teacher, images, None, seed=4)
    assert repeated.agreement == report.agreement and repeated.facts == report.facts
    assert all(map(torch.equal, again.state_dict().values(), purified.state_dict().values()))


def test_the_agreement_is_the_share_of_equal_classes():
    teacher = planted(1, poisoned=False, epochs=2)
    images = (255 * torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))).byte()
    purified, report = ChannelLipschitzPruning(deviations=0.5).purify(teacher, images, None)
    with torch.no_grad():
        same = teacher(images / 255).argmax(1) == purified(images / 255).argmax(1)
    assert report.agreement == pytest.approx(same.double().mean().item()) and report.agreement < 1


def test_the_teacher_stays_as_it_is():
    teacher = pieces()
    teacher.frozen = False
    teacher.requires_grad_(True)
    teacher.model.norm1.weight.requires_grad_(False)
    teacher.eval()
    teacher(IMAGES).sum().backward()
    teacher.model.norm2.train()
    with torch.no_grad():
        teacher.model.norm1.weight[3] = 40
    kept = copy.deepcopy(teacher)
    gradients = [copy.deepcopy(weight.grad) for weight in teacher.parameters()]
    purified, report = ChannelLipschitzPruning().purify(teacher, IMAGES, None)

    assert report.changed
    assert all(map(torch.equal, teacher.state_dict().values(), kept.state_dict().values()))
    flags = [[weight.requires_grad for weight in each.parameters()] for each in (teacher, kept)]
    assert flags[0] == flags[1]
    for weight, gradient in zip(teacher.parameters(), gradients, strict=True):
        assert weight.grad is gradient is None or torch.equal(weight.grad, gradient)
    modes = [[module.training for module in each.modules()] for each in (teacher, kept, purified)]
    assert modes[0] == modes[1] and not any(modes[2])
    assert purified.frozen and not any(each.requires_grad for each in purified.parameters())
    assert not any(module._forward_hooks for each in (teacher, purified) for module in each.modules())


@pytest.mark.parametrize("kind", ["vit", "left", "even"])
def test_nothing_to_prune(kind):
    if kind == "vit":
        teacher = bare(timm.create_model("test_vit", img_size=32, num_classes=10))
        detail = "the classifier has no BatchNorm layer; channel Lipschitz pruning changes nothing"
    elif kind == "left":
        teacher = bare(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
        detail = "no BatchNorm layer meets a convolution; channel Lipschitz pruning changes nothing"
    else:
        teacher = pieces()
        detail = "zeroed 0 of 48 channels in 0 of 3 layers"
    purified, report = ChannelLipschitzPruning(deviations=3.6).purify(teacher, IMAGES, None)

    assert purified is not teacher and not report.changed and report.agreement == 1
    assert report.detail == detail and report.facts["pruned"] == {}
    assert all(map(torch.equal, purified.state_dict().values(), teacher.state_dict().values()))


def test_hostile_input():
    teacher = pieces()
    with pytest.raises(InputError, match=r"^images: there is none; give "):
        ChannelLipschitzPruning().purify(teacher, IMAGES[:0], None)
    with pytest.raises(InputError, match=r"^channel_lipschitz_pruning\.deviations: must be positive"):
        ChannelLipschitzPruning(deviations=0.0)
    with torch.no_grad():
        teacher.model.fc.weight[0, 0] = math.nan
    with pytest.raises(InputError, match=r"^teacher: gives logits that are not finite; check "):
        ChannelLipschitzPruning().purify(teacher, IMAGES, None)


def test_the_registry_has_it():
    (entry,) = [
        each for each in registry.catalog("purifications") if each.name == "channel_lipschitz_pruning"
    ]
    assert entry.summary == ChannelLipschitzPruning.__doc__.partition("\n")[0]
    settings = registry.get("purifications", entry.name)
    assert settings is ChannelLipschitzPruning and not settings.needs_suspects
    assert settings.place == entry.name and "2022" in settings.citation
