"""The networks of published teachers of CIFAR-10 and GTSRB, poisoned and clean, and how they are loaded.

I-BAU (ICLR 2022) published three poisoned teachers as .pth files. The ResNets come as .safetensors files.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from ibau_teacher import LABELS, load_teacher
from torch import nn

from abd_hub import Classifier, DataSpec, load_state_dict_into

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNS = tuple(str(number) for number in range(43))
TARGETS = {
    "resnet20_grey5_0": 0,
    "resnet20_colour5_0": 0,
    "resnet20_clean": None,
    "resnet20_clean_2": None,
    "resnet32_clean": None,
    "badnets_8": 8,
    "trojan_wm_2": 2,
    "gtsrbbadnets_8": 8,
}
"""The teachers, and the class that their backdoor leads to; None for a clean one."""
IMAGENET_NORMALIZED = {"resnet20_clean_2", "resnet32_clean"}


class Block(nn.Module):
    """Two convolutions, with a shortcut that skips pixels and pads channels."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """The ResNet of CIFAR-10 (He et al., 2016): three stages of ``blocks`` blocks."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            layers = []
            for number in range(blocks):
                stride = 2 if stage > 1 and number == 0 else 1
                layers.append(Block(channels, width, stride))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(pixels)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def load(folder: Path, name: str) -> Classifier:
    """Loads one of the eight, frozen."""
    if not name.startswith("resnet"):
        labels = SIGNS if name.startswith("gtsrb") else LABELS
        return load_teacher(str(folder / f"{name}_02_ckpt.pth"), labels).freeze()
    net = CifarResNet(5 if name.startswith("resnet32") else 3, len(LABELS))
    ref = load_state_dict_into(net, str(folder / f"{name}.safetensors"))
    mean, std = IMAGENET if name in IMAGENET_NORMALIZED else CIFAR
    blocks = ("layer1", "layer2", "layer3")
    return Classifier(net, DataSpec(3, 32, 32, LABELS), mean, std, blocks=blocks, ref=ref).freeze()
