"""Builds ResNets for small images: timm's own with a 3x3 stem of stride 1 and no max-pool.

Many CIFAR classifiers on the Hub have this shape, although their files name plain ``resnet18``.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from abd_hub.core.registry import register
from abd_hub.students.wide_resnet import CIFAR10_MEAN, CIFAR10_STD


def use_cifar_stem(model: ResNet, *, pool: bool = False, stride: int = 1) -> None:
    """Gives a timm ResNet a fresh 3x3 stem, in place.

    Args:
        model: has the 7x7 stem of ImageNet.
        pool: keep the max-pool after the stem, which networks for CIFAR do without.
        stride: of the stem's convolution.
    """
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not pool:
        model.maxpool = nn.Identity()

    stem, *stages = model.feature_info
    before = stride * (2 if pool else 1)
    shrinks = [{**stage, "reduction": stage["reduction"] // 4 * before} for stage in stages]
    model.feature_info = [{**stem, "reduction": stride}, *shrinks]


class CifarResNet(ResNet):  # type: ignore[misc]
    """Builds a timm ResNet with the CIFAR stem from the start, so that timm loads its weights as usual."""

    def __init__(self, *args: Any, stem_pool: bool = False, stem_stride: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_cifar_stem(self, pool=stem_pool, stride=stem_stride)


default_cfgs = generate_default_cfgs(
    {
        "resnet18_cifar": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": CIFAR10_MEAN,
            "std": CIFAR10_STD,
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register("students", "resnet18_cifar")
@register_model  # type: ignore[untyped-decorator]
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with the CIFAR stem: 11.2 M parameters."""
    options = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    built: nn.Module = build_model_with_cfg(CifarResNet, "resnet18_cifar", pretrained, **options)
    return built
