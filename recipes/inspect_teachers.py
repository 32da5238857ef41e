"""Inspect the published teachers of CIFAR-10 and GTSRB for a backdoor, without data.

    python recipes/inspect_teachers.py FOLDER --seeds 0 1 2 --results recipes/results/inspection

FOLDER holds their checkpoints. I-BAU (ICLR 2022) published three poisoned teachers as .pth files; the
ResNets come as .safetensors files. One JSON file is written for each teacher and seed, and one that is there
is not measured again. The true target is not used by an inspection; it is recorded beside its answer.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from ibau_teacher import LABELS, load_teacher
from torch import nn

from abd_hub import Classifier, DataSpec, InputError, TriggerInversion, inspect_model, load_state_dict_into

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
    return Classifier(net, DataSpec(3, 32, 32, LABELS), mean, std, ref=ref).freeze()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the checkpoints")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher and seed")
    parser.add_argument("--teachers", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--steps", type=int, default=TriggerInversion().steps)
    options = parser.parse_args()

    options.results.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.teachers:
            file = options.results / f"{name}_seed{seed}.json"
            if not file.exists():
                measure(options, name, seed, file)


def measure(options: argparse.Namespace, name: str, seed: int, file: Path) -> None:
    """Inspects one teacher, and writes the file in one step."""
    try:
        teacher = load(options.folder, name)
    except InputError as error:
        print(f"{name}: left out, {error}", flush=True)
        return
    began = time.process_time()
    settings = TriggerInversion(steps=options.steps, mixed_precision=options.mixed_precision)
    report = inspect_model(teacher, inspection=settings, seed=seed)
    facts = {
        "teacher": name,
        "sha256": teacher.ref.sha256,
        "target": TARGETS[name],
        "seed": seed,
        "steps": options.steps,
        "mixed_precision": options.mixed_precision,
        "processor_seconds": round(time.process_time() - began, 1),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "report": report.to_json(),
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(file)
    print(
        f"{name}, seed {seed}: {report.detail}",
        {k: round(v, 3) for k, v in report.scores.items()},
        flush=True,
    )


if __name__ == "__main__":
    main()
