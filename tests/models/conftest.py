"""Folders that the libraries themselves write."""

import pytest
import timm
from checkpoints import LABELS, MEAN, STD, shaken
from timm.models import save_for_hf
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)


@pytest.fixture
def timm_folder(tmp_path):
    """What timm itself writes, for a student of ours."""
    model = shaken(timm.create_model("wrn_10_1", num_classes=3))
    data = {"input_size": (3, 16, 16), "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    folder = tmp_path / "made_by_timm"
    save_for_hf(model, str(folder), {"label_names": list(LABELS)}, safe_serialization=True, data_config=data)
    return folder


@pytest.fixture
def resnet_folder(tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = shaken(ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate(LABELS)))))
    folder = tmp_path / "resnet"
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 24}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@pytest.fixture
def vit_folder(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, id2label=dict(enumerate(LABELS)))
    folder = tmp_path / "vit"
    shaken(ViTForImageClassification(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=MEAN, image_std=STD).save_pretrained(
        folder
    )
    return folder
