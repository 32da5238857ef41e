"""The image bank of a run as a data set that ``datasets`` and the Hub understand.

The images are those of the newest checkpoint. They go into Parquet files as PNG, which keeps every bit, with
the class that each was made for; the card says that they are synthetic and whose backdoor they may carry.
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
from abd_hub.core.folder import check_folder
from abd_hub.core.record_file import read_record
from abd_hub.core.yaml_text import YamlError, read_yaml
from abd_hub.learning import checkpoint
from abd_hub.publish.front_matter import TAG
from abd_hub.publish.own_parts import sealed
from abd_hub.publish.templates import render

SHARD = 1 << 28
"""Bytes of raw images in one Parquet file: 87,000 of 32x32."""


@dataclass(frozen=True, eq=False)
class Bank:
    """The images that a run has kept, and where they come from."""

    images: Tensor
    """(n, C, H, W) uint8 with C 1 or 3."""
    labels: Tensor
    """(n,) int64, the class that each image was made for."""
    names: tuple[str, ...]
    """Label names by label; numbers where the run is not finished and does not tell them."""
    method: str | None
    """Registered name of the synthesizer; None for a loop of somebody's own, which does not tell it."""
    teacher: str | None
    """Its id; None where it is not told."""
    teacher_sha256: str | None
    rounds: int
    """Rounds done when the checkpoint was written."""
    finished: bool


def export_bank(run: str | Path, folder: str | Path) -> Path:
    """Writes the bank of a run's newest checkpoint as a data set; reads nothing but the run's folder.

    Args:
        run: output folder of ``distill``, finished or not.
        folder: to be made. Either it appears complete or not at all.

    Returns:
        ``folder``. ``load_images(folder, "train")`` and ``datasets.load_dataset`` read it.

    Raises:
        InputError: ``folder`` exists or cannot be written, or ``run`` has no checkpoint, no bank, or one that
            is damaged.
    """
    check_place(folder)
    return write_bank(read_bank(run), folder)


def check_place(folder: str | Path) -> None:
    """Refuses a folder that exists, or that cannot be made.

    Raises:
        InputError: it names the folder.
    """
    check_folder(folder, "folder", existing="none", remedy="name a new one")


def read_bank(run: str | Path) -> Bank:
    """The bank in the newest checkpoint of a run.

    Raises:
        InputError: see ``export_bank``.
    """
    path = Path(run)
    if not path.is_dir():
        raise InputError(f"run: there is no folder {run}; give the output folder of abd-hub distill")
    config = _config(path)
    found = checkpoint.checkpoints(path / "checkpoints")
    if not found:
        raise InputError(
            f"run: {run} holds no checkpoint; the bank is kept where trainer.checkpoint_every is not 0"
        )
    rounds, state = checkpoint.load(found[-1])
    images, labels = _images(path, config.get("synthesizer"), state)
    finished = (path / RECORD_FILE).is_file()
    names = _names(path, config, labels)
    if int(labels.max()) >= len(names) or int(labels.min()) < 0:
        raise InputError(f"run: the bank of {run} has labels outside 0..{len(names) - 1}; run it again")
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
    """Writes the data set beside ``folder`` and renames it.

    Raises:
        InputError: it cannot be written there.
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
        raise InputError(f"folder: {folder} cannot be written ({reason}); name another place") from error
    return path


def render_dataset_card(bank: Bank) -> str:
    """README.md: metadata that the Hub understands, then the text; the same bank gives the same text."""
    count, channels, height, width = bank.images.shape
    shape = {"count": count, "channels": channels, "height": height, "width": width}
    return sealed(_metadata(bank).to_yaml(), render("images", bank=bank, labels=bank.names, **shape))


def _metadata(bank: Bank) -> DatasetCardData:
    # No "configs": the split follows from the files' names, and where a card has them the datasets library
    # takes two folders of one name for the same and answers with its cached copy of the first.
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
        raise InputError(f"run: {file} cannot be read; give the output folder of abd-hub distill") from error
    if not isinstance(config, dict) or "synthesizer" not in config:
        raise InputError(f"run: {path} is no distillation; give the output folder of abd-hub distill")
    return config


def _images(path: Path, method: str | None, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    bank = state.get("synthesizer", {}).get("bank")
    if not isinstance(bank, dict):
        raise InputError(f"run: {method or 'its method'} keeps no images, so {path} has none to export")
    images, labels = bank.get("images"), bank.get("labels")
    whole = (
        isinstance(images, Tensor)
        and isinstance(labels, Tensor)
        and images.dtype == torch.uint8
        and labels.dtype == torch.int64
        and images.ndim == 4
        and labels.shape == images.shape[:1]
    )
    if not whole:
        raise InputError(f"run: the bank in the newest checkpoint of {path} is damaged; run it again")
    assert isinstance(images, Tensor) and isinstance(labels, Tensor)
    if not len(images):
        raise InputError(f"run: the bank of {path} is still empty; let the run go on first")
    if images.shape[1] not in (1, 3):
        raise InputError(f"run: the images of {path} have {images.shape[1]} channels; PNG takes 1 or 3")
    return images, labels


def _names(path: Path, config: dict[str, Any], labels: Tensor) -> tuple[str, ...]:
    """From config.json of a finished run, else as the run was told, else numbers."""
    try:
        names = json.loads((path / "config.json").read_text(encoding="utf-8"))["label_names"]
    except FileNotFoundError:
        names = _teacher_settings(config).get("labels")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"run: {path / 'config.json'} tells no label_names; run it again") from error
    if names is None:
        return tuple(str(label) for label in range(int(labels.max()) + 1))
    if not isinstance(names, list) or len({str(name) for name in names}) != len(names):
        raise InputError(f"run: the label names of {path} are not all different; give teacher.labels")
    return tuple(str(name) for name in names)


def _teacher_settings(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("teacher")
    return found if isinstance(found, dict) else {}
