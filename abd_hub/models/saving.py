"""This module writes a loaded classifier to a folder that ``load_classifier`` reads with the same logits.

timm's models go into timm's folder. A model of transformers goes into a folder of transformers, with an image
processor that does what the ``Classifier`` does: it resizes the whole image, scales and normalizes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from abd_hub.core.errors import InputError
from abd_hub.core.files import give_usual_mode
from abd_hub.core.records import ModelRef
from abd_hub.models.classifier import Classifier, load_classifier, save_timm_folder
from abd_hub.models.preprocessing import RESAMPLING, shortest_decimals
from abd_hub.models.transformers_checkpoints import LogitsOnly
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
    _write(place / PROCESSOR_FILE, _processor(classifier))
    digest = file_sha256([place / "model.safetensors"])
    return ModelRef(place.resolve().name, type(network).__name__, sha256=digest)


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
    if (spec, classifier.interpolation) != (read.spec, read.interpolation):
        return False
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, spec.channels, spec.height, spec.width, generator=draw)
    # Weights in a mapped file are not aligned, and some kernels then round differently.
    return torch.allclose(classifier(pixels), read(pixels), rtol=1e-3, atol=1e-4)


def _processor(classifier: Classifier) -> dict[str, Any]:
    spec = classifier.spec
    numbers = {name: number for number, name in RESAMPLING.items()}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": spec.height, "width": spec.width},
        "resample": numbers[classifier.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": shortest_decimals(classifier.mean),
        "image_std": shortest_decimals(classifier.std),
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
