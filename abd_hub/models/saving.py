"""This module writes a loaded classifier to a folder that ``load_classifier`` reads with the same logits.

timm's models go into timm's folder, with crop_pct and crop_mode as they are. A model of transformers goes
into a folder of transformers, with an image processor that makes the pixels of ``Classifier.prepare`` and
normalizes them. The libraries' own pipelines then give the same answers to images of any size.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from abd_hub.core.errors import InputError
from abd_hub.core.files import atomic_path, give_usual_mode, write_text
from abd_hub.core.records import ModelRef
from abd_hub.models.classifier import Classifier, load_classifier
from abd_hub.models.image_processors import RESAMPLING, SIZE_KEYS
from abd_hub.models.preprocessing import shortest_decimals
from abd_hub.models.transformers_checkpoints import LogitsOnly
from abd_hub.models.view import View
from abd_hub.models.weights import file_sha256

PROCESSOR_FILE = "preprocessor_config.json"
_WHOLE = "1TB"
"""The largest part of a checkpoint; transformers cuts larger weights into several files."""


def library_of(classifier: Classifier) -> str:
    """Returns which library reads the folder of ``save_folder``: timm or transformers."""
    return "transformers" if isinstance(classifier.model, LogitsOnly) else "timm"


def save_folder(classifier: Classifier, folder: str | Path) -> ModelRef:
    """Writes config.json, model.safetensors and, for transformers, the image processor's settings.

    Returns:
        The folder's name, the architecture and the hash of model.safetensors.

    Raises:
        InputError: neither timm nor transformers can build this architecture again.
    """
    if not isinstance(classifier.model, LogitsOnly):
        return save_timm_folder(classifier, folder)

    processor = image_processor_of(classifier)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    network: Any = classifier.model.model
    network.save_pretrained(place, max_shard_size=_WHOLE)
    give_usual_mode(place / "model.safetensors")
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    # The path of this machine leaves no trace, and the caller may have named the classes.
    config.pop("_name_or_path", None)
    config["id2label"] = {str(index): name for index, name in enumerate(classifier.spec.labels)}
    config["label2id"] = {name: index for index, name in enumerate(classifier.spec.labels)}
    _write(place / "config.json", config)
    _write(place / PROCESSOR_FILE, processor)
    digest = file_sha256([place / "model.safetensors"])
    return ModelRef(place.resolve().name, type(network).__name__, sha256=digest)


def save_timm_folder(classifier: Classifier, folder: str | Path) -> ModelRef:
    """Writes model.safetensors and config.json, which timm's ``local-dir:`` and ``hf-hub:`` reload.

    ``model_args`` in config.json leaves out the number of classes. transformers passes that number itself and
    fails when it gets the number twice.

    Returns:
        The folder's name, the architecture and the hash of model.safetensors.

    Raises:
        InputError: timm cannot build this architecture again.
    """
    if not classifier.architecture:
        name = type(classifier.model).__name__
        raise InputError(f"architecture: timm cannot rebuild {name}; save a student made by create_student")
    if classifier.flip_channels:
        raise InputError(
            "flip_channels: timm's configuration cannot state it; reverse the channels of the first layer,"
            " and save a classifier without it"
        )

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.model.state_dict().items()
    }
    with atomic_path(place / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})

    config = json.dumps(_timm_config(classifier), indent=2, ensure_ascii=False)
    write_text(place / "config.json", config + "\n")
    digest = file_sha256([place / "model.safetensors"])
    return ModelRef(place.resolve().name, classifier.architecture, sha256=digest)


def check_savable(classifier: Classifier, remedy: str) -> None:
    """Writes a classifier to a temporary folder and reads it back, before any work on it.

    Args:
        classifier: on the CPU.
        remedy: end of the message.

    Raises:
        InputError: it cannot be written, or what is read gives other logits.
    """
    with tempfile.TemporaryDirectory(prefix="abd-hub-") as place:
        try:
            save_folder(classifier, place)
            read = load_classifier(f"local-dir:{place}")
        except InputError as error:
            raise InputError(f"model: {classifier.ref.id} cannot be written ({error}); {remedy}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(
                f"model: {classifier.ref.id} cannot be written to {tempfile.gettempdir()} ({reason}); free "
                "some space there, or set TMPDIR to another folder"
            ) from error
        if not _is_same(classifier, read):
            raise InputError(
                f"model: {classifier.ref.id} changes when it is written and read again; {remedy}"
            )


@torch.no_grad()
def _is_same(classifier: Classifier, read: Classifier) -> bool:
    spec = classifier.spec
    if (spec, classifier.view, classifier.flip_channels) != (read.spec, read.view, read.flip_channels):
        return False
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, spec.channels, spec.height, spec.width, generator=draw)
    # Weights in a mapped file are not aligned, and some kernels then round differently.
    return torch.allclose(classifier(pixels), read(pixels), rtol=1e-3, atol=1e-4)


def _timm_config(classifier: Classifier) -> dict[str, Any]:
    spec, model = classifier.spec, classifier.model
    known = model.pretrained_cfg
    assert isinstance(known, dict)
    config: dict[str, Any] = {
        "architecture": classifier.architecture,
        "num_classes": spec.num_classes,
        "num_features": model.num_features,
        "label_names": list(spec.labels),
        "pretrained_cfg": {
            "num_classes": spec.num_classes,
            "input_size": [spec.channels, spec.height, spec.width],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": classifier.interpolation,
            "crop_pct": classifier.view.stated_pct,
            "crop_mode": classifier.view.crop_mode,
            "mean": shortest_decimals(classifier.mean),
            "std": shortest_decimals(classifier.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }

    args = {
        key: value for key, value in classifier.model_args.items() if key not in ("num_classes", "in_chans")
    }
    # timm derives both from input_size; transformers does not.
    if known.get("fixed_input_size"):
        args["img_size"] = [spec.height, spec.width]
    if spec.channels != 3:
        args["in_chans"] = spec.channels
    return config | ({"model_args": args} if args else {})


def image_processor_of(classifier: Classifier) -> dict[str, Any]:
    """Returns the content of preprocessor_config.json with which transformers makes the same pixels.

    Raises:
        InputError: no class of transformers does this.
    """
    view, mean = classifier.view, classifier.mean
    keys = next((keys for keys, (resize, *_) in SIZE_KEYS.items() if resize == view.resize), None)
    cuts_like_timm = view.cropped and view.rounds == "even" and view.edges != view.size
    if view.fill or cuts_like_timm or (keys is None and view.resize not in ("none", "square")):
        raise InputError(
            f"crop_mode: no image processor of transformers does {view.crop_mode} as timm does; leave out "
            "crop_mode and crop_pct"
        )

    numbers = {name: number for number, name in RESAMPLING.items()}
    content: dict[str, Any] = {
        "image_processor_type": _class_for(view, classifier.flip_channels),
        "do_resize": view.resize != "none",
        "size": _size_of(view, keys),
        "resample": numbers[view.interpolation],
        "do_center_crop": view.cropped or view.resize == "square",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": shortest_decimals(mean),
        "image_std": shortest_decimals(classifier.std),
    }
    if content["do_center_crop"]:
        height, width = view.edges if view.resize == "square" else view.size
        content["crop_size"] = {"height": height, "width": width}
    if mean.numel() != 3:
        content["do_convert_rgb"] = False
    return _flipped(content, classifier) if classifier.flip_channels else content


def _class_for(view: View, flip_channels: bool) -> str:
    if flip_channels:
        return "MobileViTImageProcessor"
    if view.resize == "square":
        return "PerceiverImageProcessor"
    # Earlier versions of transformers crop in one of these classes only.
    return "ViTImageProcessor" if view.resize == "exact" and not view.cropped else "CLIPImageProcessor"


def _size_of(view: View, keys: frozenset[str] | None) -> dict[str, int]:
    if keys is None:
        return {"height": view.size[0], "width": view.size[1]}
    _, first, second = SIZE_KEYS[keys]
    return {first: view.edges[0], second: view.edges[1]}


def _flipped(content: dict[str, Any], classifier: Classifier) -> dict[str, Any]:
    """Returns the settings of the only class that reverses the channels; it scales without normalizing."""
    scale = float(classifier.std.flatten()[0])
    scaled_alone = bool((classifier.mean == 0).all()) and bool((classifier.std == scale).all())
    if not scaled_alone or classifier.view.resize == "square":
        raise InputError(
            "mean: no image processor of transformers reverses the channels and normalizes them; leave out "
            "mean and std"
        )
    kept = {key: value for key, value in content.items() if key not in ("image_mean", "image_std")}
    return kept | {
        "do_flip_channel_order": True,
        "do_normalize": False,
        "rescale_factor": 1 / 255 / scale,
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
