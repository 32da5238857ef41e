"""Builds wide residual networks for small images (Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146).

A pre-activation block computes ``x + conv(relu(bn(conv(relu(bn(x))))))``. Where the shape changes, the
shortcut is a 1x1 convolution of the pre-activated input, ``shortcut(a) + ...`` with ``a = relu(bn(x))``.
WRN-d-k has d = 6n + 4 layers and three groups of n blocks with 16k, 32k and 64k channels.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from abd_hub.core.registry import register

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


NARROW = 16
"""With fewer input channels and the channels last, oneDNN 3.12 writes the weight gradient of a strided 1x1
convolution out of bounds (oneDNN issue 6035, PyTorch 2.13 and 2.14), and the process crashes."""


class NarrowProjection(nn.Conv2d):
    """A 1x1 convolution that leaves pixels out before it, where its stride would leave them out within."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H / stride, W / stride)."""
        down, right = self.stride
        return F.conv2d(x[:, :, ::down, ::right], self.weight)


class PreActivationBlock(nn.Module):
    """Adds BN-ReLU-conv, applied twice, to the input or to its 1x1 projection."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and in_width == width
        projection = NarrowProjection if in_width < NARROW else nn.Conv2d
        self.shortcut = None if same else projection(in_width, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_width, H, W) to (N, width, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        kept: Tensor = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv1(active)
        out = self.conv2(F.relu(self.norm2(out)))
        return out + kept


class WideResNet(nn.Module):
    """Builds a wide residual network with the interface of timm's models.

    Args:
        depth: 6n + 4 with n blocks in each of the three groups.
        widen: the paper's k.
        base_width: channels of the stem, and of the first group at ``widen`` 1.
        num_classes: number of logits; 0 leaves the classifier out.
        in_chans: channels of the images.
        global_pool: timm's name for the pooling; empty for none.
        drop_rate: rate of the dropout before the classifier.

    Raises:
        ValueError: the depth is not 6n + 4.
    """

    def __init__(
        self,
        *,
        depth: int = 16,
        widen: int = 1,
        base_width: int = 16,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth: {depth} is not 6n + 4; use 10, 16, 22, 28, 40, ...")

        widths = [base_width * factor * widen for factor in (1, 2, 4)]
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate

        self.stem = nn.Conv2d(in_chans, base_width, 3, padding=1, bias=False)
        self.group1 = _group(base_width, widths[0], blocks, stride=1)
        self.group2 = _group(widths[0], widths[1], blocks, stride=2)
        self.group3 = _group(widths[1], widths[2], blocks, stride=2)
        self.norm = nn.BatchNorm2d(widths[2])

        self.num_features = widths[2]
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"group{index}"}
            for index, (width, reduction) in enumerate(zip(widths, (1, 2, 4), strict=True), start=1)
        ]
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.apply(_initialize)

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Returns the last linear layer, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a fresh one for ``num_classes``; 0 leaves it out."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.fc.apply(_initialize).to(self.stem.weight.device, self.stem.weight.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps (N, in_chans, H, W) to (N, num_features, H / 4, W / 4)."""
        x = self.group3(self.group2(self.group1(self.stem(x))))
        return F.relu(self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features to (N, num_classes), or to (N, num_features) with ``pre_logits``."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        out: Tensor = x if pre_logits else self.fc(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Maps normalized images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _group(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_width, width, stride)
    return nn.Sequential(first, *(PreActivationBlock(width, width, 1) for _ in range(blocks - 1)))


@torch.no_grad()
def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": CIFAR10_MEAN,
        "std": CIFAR10_STD,
        "first_conv": "stem",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {name: _cfg() for name in ("wrn_10_1", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2")}
)


def _build(name: str, pretrained: bool, depth: int, widen: int, kwargs: dict[str, Any]) -> nn.Module:
    built: nn.Module = build_model_with_cfg(
        WideResNet, name, pretrained, **{"depth": depth, "widen": widen, **kwargs}
    )
    return built


@register("students", "wrn_10_1")
@register_model  # type: ignore[untyped-decorator]
def wrn_10_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-10-1: 0.08 M parameters, for demos on tiny images."""
    return _build("wrn_10_1", pretrained, 10, 1, kwargs)


@register("students", "wrn_16_1")
@register_model  # type: ignore[untyped-decorator]
def wrn_16_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-16-1: 0.18 M parameters, the usual student on CIFAR-10."""
    return _build("wrn_16_1", pretrained, 16, 1, kwargs)


@register("students", "wrn_16_2")
@register_model  # type: ignore[untyped-decorator]
def wrn_16_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-16-2: 0.69 M parameters."""
    return _build("wrn_16_2", pretrained, 16, 2, kwargs)


@register("students", "wrn_40_1")
@register_model  # type: ignore[untyped-decorator]
def wrn_40_1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-40-1: 0.56 M parameters."""
    return _build("wrn_40_1", pretrained, 40, 1, kwargs)


@register("students", "wrn_40_2")
@register_model  # type: ignore[untyped-decorator]
def wrn_40_2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """WRN-40-2: 2.2 M parameters, the size of a teacher."""
    return _build("wrn_40_2", pretrained, 40, 2, kwargs)
