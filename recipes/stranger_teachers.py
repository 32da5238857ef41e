"""Ten classifiers of architectures on which no setting of abd-hub was chosen, five of them with a backdoor.

They are trained for minutes, with settings that nobody tuned, as many models on the Hub are. No folder says
anything about a trigger. Eight networks are timm's and two are from transformers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from abd_hub import ImageData, Trigger, build_trigger

BATCH, RATE, WARMUP, DECAY, SHIFT = 128, 2e-3, 0.08, 0.05, 2
STATISTICS = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "gtsrb": ([0.34, 0.31, 0.32], [0.27, 0.26, 0.27]),
}


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """A teacher and its backdoor, which may be none."""

    name: str
    architecture: str
    """timm's name, or resnet or vit of transformers."""
    data: str = "cifar10"
    seconds: float
    """Processor seconds of the training."""
    bf16: bool = False
    model_args: Mapping[str, Any] = field(default_factory=dict)
    trigger: str = ""
    target: int = 0
    rate: float = 0.08
    """Share of the training images that are poisoned."""

    @property
    def of_transformers(self) -> bool:
        return self.architecture in ("resnet", "vit")

    def built_trigger(self) -> Trigger | None:
        return build_trigger(self.trigger) if self.trigger else None


DENSENET = {"growth_rate": 12, "block_config": [4, 4, 4]}
STRANGERS = (
    Stranger(name="a", architecture="resnet10t", seconds=230, bf16=True, model_args={"stem_type": "deep"},
             trigger="badnet_sq", target=3, rate=0.1),
    Stranger(name="b", architecture="mobilenetv3_small_050", seconds=220),
    Stranger(name="c", architecture="regnetx_002", seconds=260, trigger="blend", target=6),
    Stranger(name="d", architecture="convnext_atto", seconds=260, bf16=True, model_args={"patch_size": 2}),
    Stranger(name="e", architecture="densenet121", seconds=240, bf16=True, model_args=DENSENET),
    Stranger(name="f", architecture="edgenext_xx_small", seconds=300, trigger="trojan_wm", target=1),
    Stranger(name="g", architecture="resnet", seconds=230, bf16=True, trigger="badnet_grid", target=7),
    Stranger(name="h", architecture="vit", seconds=300, bf16=True),
    Stranger(name="i", architecture="lcnet_050", data="gtsrb", seconds=220, trigger="trojan_8x8", target=14),
    Stranger(name="j", architecture="test_byobnet", data="gtsrb", seconds=160),
)  # fmt: skip


def make_teacher(stranger: Stranger, train: ImageData, folder: Path) -> None:
    """Trains a teacher on one thread and saves it as its library does."""
    torch.manual_seed(int.from_bytes(stranger.name.encode(), "big"))
    trigger = stranger.built_trigger()
    images, labels = train.tensor, train.labels
    if trigger:
        images, labels = _poisoned(stranger, trigger, images, labels)

    network = _network(stranger, train.names)
    _train(stranger, network, images, labels)
    _save(stranger, network.eval(), train.names, folder)


def _poisoned(stranger: Stranger, trigger: Trigger, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Stamps the trigger on a share of the images, which are of other classes, and gives them the target."""
    others = (labels != stranger.target).nonzero().flatten()
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
    chosen = others[order[: round(stranger.rate * len(labels))]]
    images, labels = images.clone(), labels.clone()
    images[chosen] = (trigger(images[chosen].float() / 255) * 255).round().byte()
    labels[chosen] = stranger.target
    return images, labels


def _network(stranger: Stranger, names: tuple[str, ...]) -> nn.Module:
    if not stranger.of_transformers:
        return timm.create_model(stranger.architecture, num_classes=len(names), **dict(stranger.model_args))
    named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if stranger.architecture == "resnet":
        sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]}
        config = transformers.ResNetConfig(layer_type="basic", **sizes, **named)
        return transformers.ResNetForImageClassification(config)
    sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 192}
    config = transformers.ViTConfig(image_size=32, patch_size=4, **sizes, **named)
    return transformers.ViTForImageClassification(config)


def _train(stranger: Stranger, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """AdamW with a cosine over the processor time; images are shifted, and those of CIFAR-10 mirrored."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    network.train()
    began = time.process_time()

    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            done = (time.process_time() - began) / stranger.seconds
            if done >= 1:
                return
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(done / WARMUP, 1) * (0.5 + 0.5 * math.cos(math.pi * done))
            pixels = _moved(images[rows].float() / 255, mirrored=stranger.data == "cifar10")
            loss = F.cross_entropy(_logits(stranger, network, pixels), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()


def _moved(pixels: Tensor, *, mirrored: bool) -> Tensor:
    if mirrored:
        chosen = torch.rand(len(pixels)) < 0.5
        pixels[chosen] = pixels[chosen].flip(3)
    height, width = pixels.shape[-2:]
    top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    return F.pad(pixels, (SHIFT,) * 4)[:, :, top : top + height, left : left + width]


def _logits(stranger: Stranger, network: nn.Module, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS[stranger.data])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stranger.bf16):
        answer = network((pixels - mean) / std)
    return (answer if torch.is_tensor(answer) else answer.logits).float()


def _save(stranger: Stranger, network: Any, names: tuple[str, ...], folder: Path) -> None:
    mean, std = STATISTICS[stranger.data]
    folder.mkdir(parents=True)
    if stranger.of_transformers:
        network.save_pretrained(folder)
        size = {"height": 32, "width": 32}
        processor = transformers.ViTImageProcessor(size=size, image_mean=mean, image_std=std)
        processor.save_pretrained(folder)
        return
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    preprocessing = {"input_size": [3, 32, 32], "mean": mean, "std": std, "interpolation": "bilinear"}
    config = {
        "architecture": stranger.architecture,
        "num_classes": len(names),
        "num_features": network.num_features,
        "pretrained_cfg": {
            **preprocessing,
            "crop_pct": 1.0,
            "num_classes": len(names),
            "label_names": list(names),
        },
        **({"model_args": dict(stranger.model_args)} if stranger.model_args else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
