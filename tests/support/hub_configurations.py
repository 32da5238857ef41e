"""The preprocessing of well-known repositories of the Hub, as their files state it, with tiny networks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
import transformers as T
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F

CLASSES = 8
LABELS = {index: f"c{index}" for index in range(CLASSES)}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
EFFICIENT = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163]}
OLD = {"do_normalize": True, "do_resize": True}
NEW = {"do_normalize": True, "do_resize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _attention(size: int) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": size,
        "patch_size": 16,
    }


def _mobilevit(size: int) -> nn.Module:
    sizes = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 48]}
    config = T.MobileViTConfig(**sizes, num_attention_heads=2, image_size=size, id2label=LABELS)
    return T.MobileViTForImageClassification(config)


def _efficientnet(size: int) -> nn.Module:
    sizes = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
    config = T.EfficientNetConfig(image_size=size, **sizes, id2label=LABELS)
    return T.EfficientNetForImageClassification(config)


def _resnet(size: int) -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return T.ResNetForImageClassification(T.ResNetConfig(**sizes, id2label=LABELS))


def _regnet(size: int) -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "groups_width": 8}
    return T.RegNetForImageClassification(T.RegNetConfig(**sizes, id2label=LABELS))


def _convnext(size: int) -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
    return T.ConvNextForImageClassification(T.ConvNextConfig(**sizes, id2label=LABELS))


def _swin(size: int) -> nn.Module:
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 7, "image_size": size}
    return T.SwinForImageClassification(T.SwinConfig(**sizes, id2label=LABELS))


def _swinv2(size: int) -> nn.Module:
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 8, "image_size": size}
    return T.Swinv2ForImageClassification(T.Swinv2Config(**sizes, id2label=LABELS))


def _siglip(size: int) -> nn.Module:
    vision = _attention(size)
    return T.SiglipForImageClassification(T.SiglipConfig(vision_config=vision, id2label=LABELS))


def _clip(size: int) -> nn.Module:
    vision = _attention(size)
    return T.CLIPForImageClassification(T.CLIPConfig(vision_config=vision, id2label=LABELS))


FAMILIES = {
    "vit": lambda size: T.ViTForImageClassification(T.ViTConfig(**_attention(size), id2label=LABELS)),
    "deit": lambda size: T.DeiTForImageClassification(T.DeiTConfig(**_attention(size), id2label=LABELS)),
    "beit": lambda size: T.BeitForImageClassification(T.BeitConfig(**_attention(size), id2label=LABELS)),
    "dinov2": lambda size: T.Dinov2ForImageClassification(
        T.Dinov2Config(**_attention(size) | {"patch_size": 14}, id2label=LABELS)
    ),
    "mobilevit": _mobilevit,
    "efficientnet": _efficientnet,
    "resnet": _resnet,
    "regnet": _regnet,
    "convnext": _convnext,
    "swin": _swin,
    "swinv2": _swinv2,
    "siglip": _siglip,
    "clip": _clip,
}
"""Makes a network of each family for a size of its images; other families stand on a ResNet."""


@dataclass(frozen=True)
class Repository:
    """One repository: what its file of the image processor states, or its pretrained_cfg of timm."""

    name: str
    stated: dict[str, Any]
    family: str = "resnet"
    size: int = 224
    file: str = "preprocessor_config.json"
    config: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Writes the repository with a random network; what is random follows from the name."""
        torch.manual_seed(sum(map(ord, self.name)))
        folder.mkdir(parents=True)
        if self.family.startswith("test_"):
            self._write_timm(folder)
        else:
            shaken(FAMILIES[self.family](self.size), self.size).save_pretrained(folder)
            content = (
                {"image_processor": self.stated} if self.file == "processor_config.json" else self.stated
            )
            (folder / self.file).write_text(json.dumps(content))
        return folder

    def _write_timm(self, folder: Path) -> None:
        cfg = {"num_classes": CLASSES, "first_conv": None, "classifier": None} | self.stated
        made = timm.create_model(self.family, num_classes=CLASSES, **self.config)
        for key in ("first_conv", "classifier"):
            cfg[key] = made.pretrained_cfg[key]
        config = {"architecture": self.family, "num_classes": CLASSES, "pretrained_cfg": cfg}
        if self.config:
            config["model_args"] = self.config
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            shaken(made, self.stated["input_size"][-1]).state_dict(),
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )


def shaken(model: nn.Module, size: int) -> nn.Module:
    """Weights that carry the pixels to the logits, with the statistics of photographs in BatchNorm."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1 and "embed" not in name:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)

        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all passes
        if norms:
            model.train()(_photographs(size))
    return model.eval()


@cache
def _photographs(size: int) -> torch.Tensor:
    image = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)[None].float() / 255
    crops = [image[..., top : top + 200, left : left + 200] for top in (0, 200) for left in (0, 200, 400)]
    return (F.interpolate(torch.cat(crops), (size, size)) - 0.45) / 0.25


def old(kind: str, **stated: Any) -> dict[str, Any]:
    """Returns the file of a repository from the time of feature extractors."""
    return {**OLD, "feature_extractor_type": f"{kind}FeatureExtractor", **stated}


def new(kind: str, **stated: Any) -> dict[str, Any]:
    """Returns the file of a repository from the time of image processors."""
    return {**NEW, "image_processor_type": f"{kind}ImageProcessor", **stated}


_RESNET = old("ConvNext", crop_pct=0.875, resample=3, size=224, **IMAGENET)
_BEIT = old("Beit", crop_size=224, do_center_crop=False, resample=2, size=224, **HALF)
_DEIT = old("DeiT", crop_size=224, do_center_crop=True, resample=3, size=256, **IMAGENET)
_DINO = new(
    "Bit",
    crop_size=square(224),
    do_center_crop=True,
    do_convert_rgb=True,
    resample=3,
    size={"shortest_edge": 256},
    **IMAGENET,
)
_MOBILENET = {"crop_size": square(224), "do_center_crop": True, "resample": 2, "size": {"shortest_edge": 256}}
_EFFICIENT = {
    "crop_size": square(289),
    "do_center_crop": False,
    "include_top": True,
    "rescale_offset": False,
    "resample": 0,
}


def _efficient(side: int) -> Repository:
    names = {224: "b0", 240: "b1", 260: "b2", 300: "b3", 380: "b4"}
    stated = new("EfficientNet", **_EFFICIENT, size=square(side), **EFFICIENT)
    return Repository(f"google/efficientnet-{names[side]}", stated, "efficientnet", side)


TRANSFORMERS = (
    Repository("google/vit-base-patch16-224", old("ViT", resample=2, size=224, **HALF), "vit"),
    Repository("google/vit-base-patch16-384", old("ViT", resample=2, size=384, **HALF), "vit", 384),
    Repository(
        "nateraw/vit-age-classifier",
        {**OLD, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 224, **HALF},
        "vit",
    ),
    Repository("Falconsai/nsfw_image_detection", new("ViT", resample=2, size=square(224), **HALF), "vit"),
    Repository(
        "saved by transformers 5",
        new("ViT", resample=2, size=square(224), **HALF),
        "vit",
        file="processor_config.json",
    ),
    Repository("an old ViT without a class", {**OLD, "size": 224, **HALF}, "vit"),
    Repository("google/mobilevit without settings", {"do_flip_channels": True}, "mobilevit", 256),
    Repository("facebook/deit-base-distilled-patch16-224", _DEIT, "deit"),
    Repository("facebook/deit-tiny-patch16-224", {**_DEIT, "image_mean": [0.485, 0.456, 0.406]}, "deit"),
    Repository("facebook/deit-base-patch16-384", {**_DEIT, "size": 438, "crop_size": 384}, "deit", 384),
    Repository("microsoft/resnet-18", _RESNET),
    Repository("microsoft/resnet-50", {**_RESNET, "size": 224}),
    Repository("facebook/regnet-y-040", _RESNET, "regnet"),
    Repository("microsoft/cvt-13", _RESNET),
    Repository("microsoft/cvt-13-384", {**_RESNET, "crop_pct": None, "size": 384}, size=384),
    Repository("facebook/convnext-tiny-224", _RESNET, "convnext"),
    Repository("facebook/convnext-base-384", {**_RESNET, "crop_pct": 1.0, "size": 384}, "convnext", 384),
    Repository(
        "facebook/convnextv2-tiny-1k-224",
        new("ConvNext", crop_pct=0.875, resample=3, size={"shortest_edge": 224}, **IMAGENET),
        "convnext",
    ),
    Repository("microsoft/beit-base-patch16-224", _BEIT, "beit"),
    Repository("microsoft/beit-base-patch16-384", {**_BEIT, "crop_size": 384, "size": 384}, "beit", 384),
    Repository("facebook/data2vec-vision-base-ft1k", {**_BEIT, "resample": 3}, "beit"),
    Repository(
        "apple/mobilevit-small",
        {
            "crop_size": 256,
            "do_center_crop": True,
            "do_flip_channels": True,
            "do_resize": True,
            "feature_extractor_type": "MobileViTFeatureExtractor",
            "resample": 2,
            "size": 288,
        },
        "mobilevit",
        256,
    ),
    Repository(
        "apple/mobilevitv2-1.0-imagenet1k-256",
        {
            **NEW,
            "crop_size": square(256),
            "do_center_crop": True,
            "do_flip_channel_order": True,
            "image_processor_type": "MobileViTImageProcessor",
            "resample": 2,
            "size": {"shortest_edge": 288},
        },
        "mobilevit",
        256,
    ),
    Repository("google/mobilenet_v1_1.0_224", new("MobileNetV1", **_MOBILENET, **HALF)),
    Repository("google/mobilenet_v2_1.0_224", new("MobileNetV2", **_MOBILENET, **HALF)),
    _efficient(224),
    _efficient(240),
    _efficient(260),
    _efficient(300),
    _efficient(380),
    Repository(
        "google/align-base, as a classifier",
        new("EfficientNet", **_EFFICIENT | {"include_top": False, "rescale_offset": True, "resample": 2})
        | {"rescale_factor": 1 / 127.5, "size": square(224), **HALF},
        "efficientnet",
    ),
    Repository("facebook/levit-128S", old("Levit", do_center_crop=True, resample=3, size=224, **IMAGENET)),
    Repository("sail/poolformer_s12", old("PoolFormer", crop_pct=0.9, resample=3, size=224, **IMAGENET)),
    Repository("sail/poolformer_m36", old("PoolFormer", crop_pct=0.95, resample=3, size=224, **IMAGENET)),
    Repository("Zetatech/pvt-tiny-224", new("Pvt", resample=2, size=square(224), **IMAGENET)),
    Repository("nvidia/mit-b0", old("Segformer", reduce_labels=False, resample=2, size=224, **IMAGENET)),
    Repository("nvidia/mit-b5", old("Segformer", resample=2, size=512, **IMAGENET)),
    Repository(
        "microsoft/swin-tiny-patch4-window7-224", old("ViT", resample=3, size=224, **IMAGENET), "swin"
    ),
    Repository(
        "microsoft/swinv2-tiny-patch4-window8-256",
        old("ViT", resample=3, size=256, **IMAGENET),
        "swinv2",
        256,
    ),
    Repository("facebook/dinov2-small-imagenet1k-1-layer", _DINO, "dinov2"),
    Repository("microsoft/focalnet-tiny", _DINO),
    Repository("facebook/hiera-tiny-224-in1k-hf", _DINO),
    Repository(
        "google/bit-50",
        new(
            "Bit", crop_size=square(448), do_center_crop=True, resample=2, size={"shortest_edge": 448}, **HALF
        ),
    ),
    Repository(
        "openai/clip-vit-base-patch16",
        new(
            "CLIP",
            crop_size=square(224),
            do_center_crop=True,
            resample=3,
            size={"shortest_edge": 224},
            **CLIP,
        ),
        "clip",
    ),
    Repository(
        "an older CLIP", old("CLIP", crop_size=224, do_center_crop=True, resample=3, size=224, **CLIP), "clip"
    ),
    Repository(
        "google/siglip-base-patch16-224", new("Siglip", resample=3, size=square(224), **HALF), "siglip"
    ),
    Repository(
        "deepmind/vision-perceiver-conv",
        old("Perceiver", crop_size=256, do_center_crop=True, resample=3, size=224, **IMAGENET),
    ),
    Repository("a filter of Pillow", new("ViT", resample=1, size=square(96), **IMAGENET)),
    Repository(
        "a short and a long edge",
        new(
            "CLIP",
            crop_size=square(160),
            do_center_crop=True,
            resample=2,
            size={"shortest_edge": 160, "longest_edge": 200},
            **CLIP,
        ),
    ),
    Repository(
        "a crop alone", new("ViT", do_center_crop=True, crop_size=square(96), **HALF) | {"do_resize": False}
    ),
    Repository("raw levels", new("ViT", size=square(64), **HALF) | {"do_rescale": False}),
)


def cfg(
    size: int | tuple[int, int],
    crop_pct: float | None,
    interpolation: str,
    mode: str | None = "center",
    **more: Any,
) -> dict[str, Any]:
    """Returns timm's pretrained_cfg."""
    height, width = (size, size) if isinstance(size, int) else size
    mean = more.pop("mean", IMAGENET["image_mean"])
    std = more.pop("std", IMAGENET["image_std"])
    stated = {"crop_pct": crop_pct, "crop_mode": mode, "interpolation": interpolation}
    return {"input_size": [3, height, width], "mean": mean, "std": std, **stated, **more}


_HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_CLIPS = {"mean": CLIP["image_mean"], "std": CLIP["image_std"]}
_CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.201]}
_LARGER = {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}


def _vit(size: int) -> dict[str, Any]:
    return {"img_size": size}


TIMM = (
    Repository("timm/resnet50.a1_in1k", cfg(224, 0.95, "bicubic", **_LARGER), "test_resnet"),
    Repository("timm/resnet50.tv_in1k", cfg(224, 0.875, "bilinear"), "test_resnet"),
    Repository("timm/vgg16.tv_in1k", cfg(224, 0.875, "bilinear"), "test_resnet"),
    Repository("timm/inception_v3.tv_in1k", cfg(299, 0.875, "bicubic", **_HALVES), "test_resnet"),
    Repository("timm/legacy_xception.tf_in1k", cfg(299, 0.8975, "bicubic", **_HALVES), "test_resnet"),
    Repository("timm/nasnetalarge.tf_in1k", cfg(331, 0.911, "bicubic", **_HALVES), "test_resnet"),
    Repository(
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        cfg(224, 0.9, "bicubic", fixed_input_size=True, **_HALVES),
        "test_vit",
        config=_vit(224),
    ),
    Repository(
        "timm/vit_base_patch16_clip_384.openai_ft_in12k_in1k",
        cfg(384, 1.0, "bicubic", "squash", fixed_input_size=True, **_CLIPS),
        "test_vit",
        config=_vit(384),
    ),
    Repository(
        "timm/vit_base_patch16_clip_224.openai_ft_in1k",
        cfg(224, 0.95, "bicubic", fixed_input_size=True, **_CLIPS),
        "test_vit",
        config=_vit(224),
    ),
    Repository("timm/efficientnet_b0.ra_in1k", cfg(224, 0.875, "bicubic"), "test_efficientnet"),
    Repository("timm/tf_efficientnet_b4.ns_jft_in1k", cfg(380, 0.922, "bicubic"), "test_efficientnet"),
    Repository("timm/tf_mobilenetv3_small_100.in1k", cfg(224, 0.875, "bilinear"), "test_efficientnet"),
    Repository("timm/convnext_tiny.fb_in22k_ft_in1k", cfg(224, 0.875, "bicubic", **_LARGER), "test_convnext"),
    Repository("timm/convnext_tiny.in12k_ft_in1k_384", cfg(384, 1.0, "bicubic", "squash"), "test_convnext"),
    Repository("edadaltocg/resnet18_cifar10", cfg(32, 0.875, "bilinear", **_CIFAR), "test_resnet"),
    Repository("a student of CIFAR-10", cfg(32, 1.0, "bilinear", **_CIFAR), "test_resnet"),
    Repository("nothing stated about the crop", cfg(96, None, "bicubic", None), "test_resnet"),
    Repository("squashed and cropped", cfg(96, 0.8, "bicubic", "squash"), "test_resnet"),
    Repository("with a border", cfg(96, 0.9, "bicubic", "border"), "test_resnet"),
    Repository("with a whole border", cfg(97, 1.0, "bilinear", "border", **_HALVES), "test_resnet"),
    Repository("a wide input", cfg((64, 128), 0.875, "bicubic"), "test_resnet"),
    Repository("a larger crop than image", cfg(96, 1.1, "bilinear"), "test_resnet"),
    Repository("lanczos", cfg(96, 0.875, "lanczos"), "test_resnet"),
    Repository("box", cfg(96, 0.875, "box"), "test_resnet"),
    Repository("hamming", cfg(96, 0.875, "hamming"), "test_resnet"),
    Repository("nearest", cfg(96, 0.875, "nearest"), "test_resnet"),
)
