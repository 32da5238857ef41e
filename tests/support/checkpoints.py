"""Checkpoints of three classes, as timm and transformers write them, and what their tests share."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from torch import nn

from abd_hub.core.records import DataSpec
from abd_hub.models.classifier import Classifier, create_student

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

LABELS = ("ant", "bee", "cat")

SPEC = DataSpec(3, 16, 16, LABELS)

BARE = {"architecture": "wrn_10_1", "mean": MEAN, "std": STD, "input_size": 16}


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.net(x).mean((2, 3)))


def pixels(size: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(3))


def normalized(images: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    return (images - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and BatchNorm statistics that differ from any default, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_((torch.rand(tensor.shape, generator=draw) - 0.5) * 0.2)
    return model.eval()


def student(**kwargs) -> Classifier:
    made = create_student("wrn_10_1", SPEC, MEAN, STD, seed=0, **kwargs)
    shaken(made.model)
    return made.eval()


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "drop"}))


def cifar_resnet(classes: int = 10) -> nn.Module:
    model = timm.create_model("resnet18", num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return shaken(model)
