"""This module exports the image bank of a run as a data set for ``datasets`` and the Hub.

The images come from the newest checkpoint. They go into Parquet files as PNG, which keeps every bit, together
with their classes. The card states that the images are synthetic and which teacher's backdoor they may carry.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import DatasetCardData
from PIL import Image
from torch import Tensor

from abd_hub.config.options import without_paths
from abd_hub.core.errors import InputError
from abd_hub.core.files import CONFIG_FILE, RECORD_FILE, atomic_path, write_text
from abd_hub.core.folder import check_exists, check_folder
from abd_hub.core.record_file import read_record
from abd_hub.core.yaml_text import YamlError, read_yaml
from abd_hub.learning import checkpoint
from abd_hub.publish.front_matter import TAG
from abd_hub.publish.own_parts import sealed
from abd_hub.publish.templates import render

SHARD = 1 << 28
"""Limits the bytes of raw images in one Parquet file; 87,000 images of 32x32 fit."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Holds the images that a run has kept, and their origin."""

    images: Tensor
    """Holds the images, (n, C, H, W) uint8 with C 1 or 3."""
    labels: Tensor
    """Holds the class for which each image was made, (n,) int64."""
    names: tuple[str, ...]
    """Holds the label names by label; they are numbers where an unfinished run does not state names."""
    method: str | None
    """Holds the registered name of the synthesizer; it is None where no config.yaml names one."""
    teacher: str | None
    """Holds the id of the teacher; it is None where the run does not state one."""
    teacher_sha256: str | None
    rounds: int
    """Counts the rounds before the checkpoint."""
    finished: bool


def export_bank(run: str | Path, folder: str | Path) -> Path:
    """Writes the bank of a run's newest checkpoint as a data set.

    Only the run's folder is read.

    Args:
        run: output folder of ``distill``, finished or not.
        folder: a new folder, which appears complete or not at all.

    Returns:
        ``folder``. ``load_images(folder, "train")`` and ``datasets.load_dataset`` read it.

    Raises:
        InputError: ``folder`` exists or cannot be written; ``run`` has no checkpoint, no bank or a damaged
            one.
    """
    check_place(folder)
    return write_bank(read_bank(run), folder)


def check_place(folder: str | Path) -> None:
    """Refuses a folder that exists or that cannot be made.

    Raises:
        InputError: the folder is one of these.
    """
    check_folder(folder, "folder", existing="none", remedy="use a new folder")


def read_bank(run: str | Path) -> Bank:
    """Returns the bank in the newest checkpoint of a run.

    Raises:
        InputError: the folder, the checkpoint or the bank is missing or damaged.
    """
    path = Path(run)
    check_exists(path, "run", "use the output folder of abd-hub distill")
    config = _config(path)
    saved = checkpoint.checkpoints(path / "checkpoints")
    if not saved:
        raise InputError(
            f"run: {run} holds no checkpoint; distill again and set trainer.checkpoint_every above 0"
        )

    rounds, state = checkpoint.load(saved[-1])
    images, labels = _images(path, config.get("synthesizer"), state)
    finished = (path / RECORD_FILE).is_file()
    names = _names(path, config, labels)
    if int(labels.max()) >= len(names) or int(labels.min()) < 0:
        raise InputError(f"run: the bank of {run} has labels outside 0..{len(names) - 1}; distill again")

    return Bank(
        images,
        labels,
        names,
        config.get("synthesizer"),
        read_record(path).teacher.id if finished else _teacher_settings(config).get("id"),
        state.get("run", {}).get("teacher sha256"),
        rounds,
        finished,
    )


def write_bank(bank: Bank, folder: str | Path) -> Path:
    """Writes the data set into a temporary folder and renames this to ``folder``.

    Raises:
        InputError: ``folder`` exists or cannot be written.
    """
    path = Path(folder)
    check_place(path)
    try:
        with atomic_path(path) as temporary:
            (temporary / "data").mkdir(parents=True)
            _write_images(bank, temporary / "data")
            write_text(temporary / "README.md", render_dataset_card(bank))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"folder: {folder} cannot be written ({reason}); use another folder") from error
    return path


def render_dataset_card(bank: Bank) -> str:
    """Returns README.md, metadata for the Hub and text; the same bank gives the same card."""
    count, channels, height, width = bank.images.shape
    shape = {"count": count, "channels": channels, "height": height, "width": width}
    return sealed(_metadata(bank).to_yaml(), render("images", bank=bank, labels=bank.names, **shape))


def _metadata(bank: Bank) -> DatasetCardData:
    # The names of the files give the split, so "configs" are left out. With them the datasets library takes
    # two folders of one name for the same data and returns its cached copy of the first.
    return DatasetCardData(
        annotations_creators=["machine-generated"],
        task_categories=["image-classification"],
        size_categories=[_size_category(len(bank.images))],
        tags=["synthetic", "data-free-distillation", TAG],
    )


def _size_category(count: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if count < bound), "1M<n<10M")


def _write_images(bank: Bank, folder: Path) -> None:
    import datasets

    label = datasets.ClassLabel(names=list(bank.names))
    features = datasets.Features({"image": datasets.Image(), "label": label})
    hide = not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()

    try:
        shards = list(_shards(bank))
        for index, (images, labels) in enumerate(shards):
            rows = {
                "image": [{"bytes": _png(image), "path": None} for image in images],
                "label": labels.tolist(),
            }
            part = datasets.Dataset.from_dict(rows, features=features)
            part.to_parquet(str(folder / f"train-{index:05d}-of-{len(shards):05d}.parquet"))
    finally:
        if hide:
            datasets.enable_progress_bars()


def _shards(bank: Bank) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, SHARD // bank.images[0].numel())
    for start in range(0, len(bank.images), size):
        yield bank.images[start : start + size], bank.labels[start : start + size]


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0)
    picture = Image.fromarray((pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).contiguous().numpy())
    with io.BytesIO() as file:
        picture.save(file, format="PNG")
        return file.getvalue()


def _config(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    try:
        config = without_paths(read_yaml(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise InputError(f"run: {file} cannot be read; use the output folder of abd-hub distill") from error
    if not isinstance(config, dict) or "synthesizer" not in config:
        raise InputError(f"run: {path} is no distillation; use the output folder of abd-hub distill")
    return config


def _images(path: Path, method: str | None, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    bank = state.get("synthesizer", {}).get("bank")
    if not isinstance(bank, dict):
        raise InputError(
            f"run: {method or 'the method'} keeps no images, so {path} has none; use a run of another method"
        )

    images, labels = bank.get("images"), bank.get("labels")
    intact = (
        isinstance(images, Tensor)
        and isinstance(labels, Tensor)
        and images.dtype == torch.uint8
        and labels.dtype == torch.int64
        and images.ndim == 4
        and labels.shape == images.shape[:1]
    )
    if not intact:
        raise InputError(f"run: the bank in the newest checkpoint of {path} is damaged; distill again")
    assert isinstance(images, Tensor) and isinstance(labels, Tensor)

    if not len(images):
        raise InputError(f"run: the bank of {path} is still empty; continue the run first")
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"run: the images of {path} have {images.shape[1]} channels; use a run with 1 or 3, as PNG needs"
        )
    return images, labels


def _names(path: Path, config: dict[str, Any], labels: Tensor) -> tuple[str, ...]:
    """Returns the label names of config.json, else of the run's teacher.labels, else numbers."""
    try:
        names = json.loads((path / "config.json").read_text(encoding="utf-8"))["label_names"]
    except FileNotFoundError:
        names = _teacher_settings(config).get("labels")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"run: {path / 'config.json'} has no label_names; distill again") from error

    if names is None:
        return tuple(str(label) for label in range(int(labels.max()) + 1))
    if not isinstance(names, list) or len({str(name) for name in names}) != len(names):
        raise InputError(f"run: the label names of {path} are not all different; set teacher.labels")
    return tuple(str(name) for name in names)


def _teacher_settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = config.get("teacher")
    return settings if isinstance(settings, dict) else {}
