"""A data set of labeled images in memory, with a fingerprint of its content.

A split is read as a whole, so that images are decoded once and not in every epoch. This takes 150 MB for
50,000 images of 32x32, less than the workers and copies of a loader. The fingerprint is a sha256 of the
encoded images, before any resizing, and labels. The fingerprint of the ``datasets`` library depends on paths
and modification times, so it differs between machines.

No code of a data set is ever executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.picture_file import decode_picture
from abd_hub.core.records import DataRef
from abd_hub.core.seeding import generator
from abd_hub.core.shipped import shipped_by_sklearn
from abd_hub.data.boundary import Boundary
from abd_hub.data.columns import image_column_of, is_text, label_column_of, names_of_labels
from abd_hub.data.mixed import MixedImages, of_one_size
from abd_hub.data.opening import open_split

DIGITS = "digits"
"""Name of the embedded data set, scikit-learn's 1,797 handwritten digits.

The images are 8x8, with gray repeated over three channels. The splits ``train`` and ``test`` are always the
same, stratified, with 70 and 30 % of the images.
"""
DIGITS_TRAIN_SHARE = 0.7

MAX_SIZE_GB = 5.0
MOST_ROWS = 10_000_000

_READ_AT_ONCE = 500
_ONE_SIZE = "set image_size, which squashes every image, or use data of one size"


@dataclass(frozen=True)
class Bounds:
    """Holds what an image column may be."""

    boundary: Boundary
    size: int | None
    """Height and width to which images are squashed."""
    most_bytes: int
    """Largest size of all decoded images together."""
    prepare: Callable[[Tensor], Tensor] | None = None
    """Makes the images that are kept, from each alone."""

    def check_total(self, count: int, height: int, width: int) -> None:
        """Refuses more pixels than the bound allows, before memory is taken for them."""
        total = 3 * count * height * width
        if total > self.most_bytes:
            raise InputError(
                f"max_size_gb: {count:,} images of {height}x{width} take {total / 1e9:,.2f} GB, more than "
                f"{self.most_bytes / 1e9:g}; set limit or image_size, or raise max_size_gb"
            )

    def check_sum(self, taken: int, done: int, count: int) -> None:
        """Refuses more bytes than the bound allows, where images of several sizes add up to them."""
        if taken > self.most_bytes:
            raise InputError(
                f"max_size_gb: {done:,} of {count:,} images take {taken / 1e9:,.2f} GB, more than "
                f"{self.most_bytes / 1e9:g}; set limit or image_size, or raise max_size_gb"
            )


@dataclass(frozen=True, eq=False)
class ImageData:
    """Holds all images of a split with their labels."""

    images: Tensor | MixedImages
    """Holds the images, (n, C, H, W) uint8 where all have one size, and a sequence of (C, H, W) otherwise."""
    labels: Tensor
    """Holds the labels, (n,) int64, each in [0, len(names))."""
    names: tuple[str, ...]
    """Lists the names of the labels, in their order."""
    ref: DataRef
    """Identifies the data in the record."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> ImageData:
        """Returns the same data with both tensors on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def tensor(self) -> Tensor:
        """Returns the images as one tensor, (n, C, H, W) uint8.

        Raises:
            InputError: they have several sizes.
        """
        return of_one_size(self.images, _ONE_SIZE)

    def of_one_size(self, remedy: str) -> ImageData:
        """Returns the same data, for a consumer that needs images of one size.

        Args:
            remedy: end of the message.

        Raises:
            InputError: they have several sizes.
        """
        return replace(self, images=of_one_size(self.images, remedy))

    def pixels(self, index: Tensor | slice | Sequence[int] = slice(None)) -> Tensor:
        """Returns the indexed images as float32 (m, C, H, W) in [0,1], on the device of the data.

        Raises:
            InputError: they have several sizes.
        """
        return of_one_size(self.images[index], _ONE_SIZE).float().div_(255)


def load_images(
    source: str,
    split: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    max_size_gb: float = MAX_SIZE_GB,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> ImageData:
    """Reads one split of a data set into memory, in the data set's own order.

    Args:
        source: Hub id (``org/name``), local folder that the ``datasets`` library can read, or ``DIGITS``.
        split: name of a split, or a slice such as ``train[:10%]``.
        revision: branch, tag or commit on the Hub; the record has the commit.
        config: configuration of a data set that has several.
        image_column: required where several columns hold images.
        label_column: required where several columns could hold labels.
        limit: reads only the first images, this many.
        image_size: height and width to which images are squashed (bicubic, smoothed where it shrinks),
            whatever their shape; by default every image keeps its size.
        max_size_gb: largest size of the split's files on the Hub, and of its decoded images in memory, each
            in GB of 10^9 bytes.
        prepare: makes the images that are kept from each image alone, (1, 3, H, W) floating in [0, 1], as
            ``Classifier.prepare`` does.

    Raises:
        InputError: data, split, column or image cannot be read or used, or nothing is left to return.
    """
    _check_limit(limit)
    if source == DIGITS:
        _refuse_for_digits(revision, config, image_column, label_column, image_size)
        data = _digits(split, limit)
        return replace(data, images=_prepared(data.pixels(), prepare)) if prepare else data

    opened = open_split(source, split, revision, config, max_size_gb)
    bounds = Bounds(opened.boundary, image_size, int(max_size_gb * 1e9), prepare)
    images, labels, names, fingerprint = _read_split(
        opened.dataset, image_column, label_column, limit, bounds
    )
    commit = opened.commit
    ref = DataRef(_name_of(source, commit), split, fingerprint, commit, len(images), image_size)
    return ImageData(images, labels, names, ref)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} leaves no images; use 1 or more, or leave it out")


def _name_of(source: str, commit: str | None) -> str:
    """Returns the name for the record, which must not reveal the path of a folder."""
    return source if commit else Path(source).expanduser().resolve().name


def _refuse_for_digits(
    revision: str | None,
    config: str | None,
    image_column: str | None,
    label_column: str | None,
    image_size: int | None,
) -> None:
    options = {
        "revision": revision,
        "config": config,
        "image_column": image_column,
        "label_column": label_column,
        "image_size": image_size,
    }
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} has no meaning for the embedded data set 'digits'; leave it out")


def _digits(split: str, limit: int | None) -> ImageData:
    if split not in ("train", "test"):
        raise InputError(f"split {split!r} does not exist in digits; use train or test")
    # 64 levels in 0..16 and a label a row. An import of scikit-learn would take two seconds of every run.
    file = shipped_by_sklearn("datasets", "data", "digits.csv.gz")
    rows = torch.as_tensor(np.loadtxt(file, delimiter=",", dtype=np.int64))
    labels = rows[:, -1]
    train = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        members = (labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator(0, "digits", "split", label))
        train[members[order[: round(DIGITS_TRAIN_SHARE * len(members))]]] = True
    places = (train if split == "train" else ~train).nonzero().squeeze(1)[:limit]

    values = rows[places, :-1].reshape(-1, 8, 8)
    gray = ((values * 255 + 8) // 16).to(torch.uint8)
    images = gray.unsqueeze(1).repeat(1, 3, 1, 1)
    labels = labels[places]
    names = tuple(str(label) for label in range(10))

    digest = hashlib.sha256(gray.numpy().tobytes())
    ref = DataRef(DIGITS, split, _seal(digest, labels, names), None, len(images))
    return ImageData(images, labels, names, ref)


def _read_split(
    dataset: Any, image_column: str | None, label_column: str | None, limit: int | None, bounds: Bounds
) -> tuple[Tensor | MixedImages, Tensor, tuple[str, ...], str]:
    """Returns images, labels, names of the labels and the fingerprint of the image and the label column."""
    image = image_column_of(dataset.features, image_column)
    label = label_column_of(dataset.features, label_column)
    if len(dataset) > MOST_ROWS:
        raise InputError(f"the split has {len(dataset):,} rows, more than {MOST_ROWS:,}; use a slice of it")
    names = names_of_labels(dataset, label)
    if limit is not None:
        dataset = dataset.select(range(min(limit, len(dataset))))

    numbers = (
        {name: number for number, name in enumerate(names)} if is_text(dataset.features, label) else None
    )
    images, labels, digest = _decode(dataset, image, label, bounds, numbers)
    _check_labels(labels, len(names), label)
    return images, labels, names, _seal(digest, labels, names)


def _decode(
    dataset: Any, image: str, label: str, bounds: Bounds, numbers: Mapping[str, int] | None
) -> tuple[Tensor | MixedImages, Tensor, hashlib._Hash]:
    import datasets

    # The library's own decoding is five times slower, because it makes a picture object and a copy per image.
    raw = dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    digest = hashlib.sha256()
    labels: list[int] = []
    kept = _Kept(len(raw), bounds)

    for batch in raw.iter(batch_size=_READ_AT_ONCE):
        for cell, value in zip(batch[image], batch[label], strict=True):
            encoded, decoded = _read(cell, len(labels), bounds)
            kept.add(decoded)
            labels.append(-1 if value is None else int(value) if numbers is None else numbers[value])
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)

    return kept.images(), torch.tensor(labels, dtype=torch.int64), digest


class _Kept:
    """Keeps decoded images in one array, until one has another size than the first."""

    def __init__(self, count: int, bounds: Bounds) -> None:
        self.count = count
        self.bounds = bounds
        self.index = 0
        self.pixels: NDArray[np.uint8] | None = None
        self.apart: list[Tensor] | None = None
        self.bytes = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Keeps the next image, (C, H, W).

        Raises:
            InputError: the images take more memory than the bound allows.
        """
        if self.pixels is None and self.apart is None:
            self.bounds.check_total(self.count, *image.shape[1:])
            self.pixels = np.empty((self.count, *image.shape), dtype=np.uint8)
        if self.pixels is not None and image.shape != self.pixels.shape[1:]:
            self.apart = [torch.from_numpy(one.copy()) for one in self.pixels[: self.index]]
            self.pixels = None

        self.bytes += image.size
        if self.apart is None:
            assert self.pixels is not None, "made above"
            self.pixels[self.index] = image
        else:
            self.bounds.check_sum(self.bytes, self.index + 1, self.count)
            self.apart.append(torch.from_numpy(image.copy()))
        self.index += 1

    def images(self) -> Tensor | MixedImages:
        """Returns all images."""
        if self.apart is not None:
            return MixedImages(self.apart)
        assert self.pixels is not None, "the caller has checked that there is an image"
        return torch.from_numpy(self.pixels)


def _read(cell: Any, index: int, bounds: Bounds) -> tuple[bytes, NDArray[np.uint8]]:
    """Returns the encoded bytes and the pixels, (C, H, W), of one cell of an image column."""
    what = f"image {index}"
    given = cell or {"bytes": None, "path": None}
    encoded = given["bytes"] if given["bytes"] is not None else bounds.boundary.read(given["path"], what)

    picture = decode_picture(encoded, what)
    size = bounds.size
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    levels = np.asarray(picture).transpose(2, 0, 1)
    if bounds.prepare is None:
        return encoded, levels
    pixels = torch.from_numpy(levels.copy())[None].float().div_(255)
    return encoded, _prepared(pixels, bounds.prepare)[0].numpy()


@torch.no_grad()
def _prepared(pixels: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns what ``prepare`` makes of images, as uint8."""
    return (prepare(pixels) * 255).round().to(torch.uint8)


def _check_labels(labels: Tensor, classes: int, column: str) -> None:
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise InputError(
            f"label_column {column!r}: image {index} has no label in 0..{classes - 1}; "
            "use a labeled split or another label_column"
        )


def _seal(digest: hashlib._Hash, labels: Tensor, names: tuple[str, ...]) -> str:
    digest.update(labels.numpy().astype("<i8").tobytes())
    digest.update("\0".join(names).encode())
    return digest.hexdigest()


def overlap(one: ImageData, other: ImageData) -> bool:
    """Returns whether two loaded splits have the same name, apart from slices, or the same fingerprint."""
    names = [(data.ref.id, data.ref.split.partition("[")[0]) for data in (one, other)]
    return names[0] == names[1] or one.ref.fingerprint == other.ref.fingerprint
