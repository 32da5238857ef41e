"""This module decides the preprocessing of a checkpoint's images.

The caller's value wins over the checkpoint's, and a missing value is an error. timm and transformers fill
gaps with ImageNet's numbers. So only the values written in the JSON count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abd_hub.core.errors import InputError
from abd_hub.hub.listing import MOST_CLASSES
from abd_hub.hub.pull import MAX_SIZE_GB

if TYPE_CHECKING:
    from torch import Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MOST_SIDE, MOST_CHANNELS = 4096, 64
"""A stranger's configuration may state a billion, and memory is taken for what it states."""
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Maps Pillow's numbers, which image processors write into their files, to names."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Holds the source of a classifier and the caller's options; None leaves a value to the checkpoint."""

    source: str
    revision: str | None = None
    architecture: str | None = None
    allow_pickle: bool = False
    num_classes: int | None = None
    labels: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    input_size: int | Sequence[int] | None = None
    interpolation: str | None = None
    blocks: Sequence[str] = ()
    allow_flagged: bool = False
    max_size_gb: float = MAX_SIZE_GB


@dataclass(frozen=True)
class Images:
    """Holds the complete preprocessing of a checkpoint's images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    interpolation: str


def decide_images(
    said: Mapping[str, Any], options: Options, where: str, interpolation: str = "bilinear"
) -> Images:
    """Decides the preprocessing: an option wins over the checkpoint's value.

    Args:
        said: the checkpoint's values by timm's names: mean, std, input_size, interpolation.
        options: the caller's.
        where: the checkpoint, for messages.
        interpolation: used where neither names one.

    Raises:
        InputError: mean, std or size is missing in both, or a value is wrong.
    """
    mean = _numbers("mean", options.mean if options.mean is not None else said.get("mean"), where)
    std = _numbers("std", options.std if options.std is not None else said.get("std"), where)
    if len(mean) != len(std):
        raise InputError(f"std: {len(std)} numbers for {len(mean)} of mean; pass one a channel in both")
    if min(std) <= 0:
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")

    stated_size = options.input_size if options.input_size is not None else said.get("input_size")
    if stated_size is None:
        raise InputError(f"input_size: {where} does not give it; pass input_size, for example 32")
    size = height_and_width(stated_size)
    if size is None or min(size) < 1:
        raise InputError(f"input_size: {stated_size!r} is not a height and a width; pass for example 32")
    if max(size) > MOST_SIDE:
        raise InputError(
            f"input_size: {where} states {size[0]}x{size[1]}; use one of at most {MOST_SIDE} pixels"
        )

    chosen = options.interpolation or said.get("interpolation") or interpolation
    if chosen not in INTERPOLATIONS:
        raise InputError(f"interpolation: {chosen!r} is not offered; use one of {', '.join(INTERPOLATIONS)}")
    return Images(mean, std, size, chosen)


def decide_labels(names: Any, classes: Any, options: Options, where: str) -> tuple[str, ...]:
    """Returns one label a class: the caller's, else the checkpoint's, else the class numbers.

    Args:
        names: the checkpoint's labels in timm's form, or None.
        classes: the checkpoint's number of classes, or None.
        options: the caller's.
        where: the checkpoint, for messages.

    Raises:
        InputError: the number of classes is missing, or counts disagree.
    """
    count = _class_count(classes, options, where)
    labels = options.labels
    if labels is not None:
        if len(labels) != count:
            raise InputError(f"labels: {len(labels)} given for {count} classes of {where}; pass one a class")
        return tuple(map(str, labels))

    if isinstance(names, dict):  # timm's form where some class numbers have no name
        return tuple(str(names.get(str(index), index)) for index in range(count))
    if isinstance(names, list | tuple) and names:
        if len(names) != count:
            raise InputError(f"labels: {where} names {len(names)} for {count} classes; pass labels")
        return tuple(map(str, names))
    return tuple(map(str, range(count)))


def _class_count(stated: Any, options: Options, where: str) -> int:
    count = stated
    if count is None:
        count = options.num_classes or (len(options.labels) if options.labels is not None else None)
    if not isinstance(count, int) or count < 1:
        raise InputError(f"num_classes: {where} does not give it; pass num_classes or labels")

    if count == 1:
        raise InputError(
            f"num_classes: {where} has one output, whose softmax is 1 for every image; use a classifier of "
            "two classes or more"
        )
    if count > MOST_CLASSES:
        raise InputError(
            f"num_classes: {where} has {count}; use a checkpoint of at most {MOST_CLASSES:,} classes"
        )
    if options.num_classes is not None and options.num_classes != count:
        raise InputError(
            f"num_classes: {options.num_classes} given, but {where} has {count} classes; leave it out"
        )
    return count


def read_image_processor(raw: Mapping[str, Any], config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings of a transformers image processor by timm's names; a missing one is None.

    Args:
        raw: preprocessor_config.json.
        config: config.json of the same checkpoint.
        where: the checkpoint, for messages.

    Raises:
        InputError: the processor changes images in a way that a ``Classifier`` cannot.
    """
    remedy = "pass mean, std and input_size to override it"
    for flag in ("do_flip_channel_order", "include_top", "do_pad"):
        if raw.get(flag):
            raise InputError(f"model: {where} uses {flag}, which has no counterpart here; {remedy}")
    factor = raw.get("rescale_factor", 1 / 255)
    if not raw.get("do_rescale", True) or not _close(factor, 1 / 255):
        raise InputError(f"model: {where} does not scale pixels by 1/255; {remedy}")

    stated = {"mean": raw.get("image_mean"), "std": raw.get("image_std")}
    if not raw.get("do_normalize", True):
        stated = {"mean": 0.0, "std": 1.0}
    channels = config.get("num_channels", 3)
    if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
        shown = repr(channels)[:40]
        raise InputError(
            f"model: num_channels of {where} is {shown}; use a whole number up to {MOST_CHANNELS}"
        )
    for name, value in stated.items():
        stated[name] = [value] * channels if isinstance(value, int | float) else value

    cropped = raw.get("crop_size") if raw.get("do_center_crop", "crop_size" in raw) else None
    resized = raw.get("size") if raw.get("do_resize", True) else None
    sizes = map(height_and_width, (cropped, resized, config.get("image_size")))
    stated["input_size"] = next((size for size in sizes if size is not None), None)

    resample = raw.get("resample")
    stated["interpolation"] = RESAMPLING.get(resample, resample) if isinstance(resample, int) else resample
    return stated


def height_and_width(size: Any) -> tuple[int, int] | None:
    """Reads a side, (H, W), timm's (C, H, W) or a size dict of transformers; None for anything else."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    if type(size) is int:
        size = (size, size)
    if isinstance(size, list | tuple) and len(size) in (2, 3) and all(type(n) is int for n in size):
        return size[-2], size[-1]
    return None


def shortest_decimals(numbers: Tensor) -> list[float]:
    """Returns the shortest decimals for these float32 numbers: 0.1, not 0.10000000149011612."""
    return [float(str(number)) for number in numbers.flatten().float().cpu().numpy()]


def _numbers(name: str, value: Any, where: str) -> tuple[float, ...]:
    if value is None:
        neutral = 0 if name == "mean" else 1
        raise InputError(
            f"{name}: {where} does not give it; pass {name}, one number a channel for pixels in [0, 1]"
            f" ({neutral} if the model takes raw pixels)"
        )
    if isinstance(value, Sized) and len(value) > MOST_CHANNELS:
        raise InputError(
            f"{name}: {where} has {len(value):,} numbers; use one a channel, {MOST_CHANNELS} at most"
        )
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: {value!r} is not a list of numbers; pass one number a channel") from error
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{name}: {value!r} is not a list of finite numbers; pass one number a channel")
    return numbers


def _close(value: Any, wanted: float) -> bool:
    # math.isclose takes no whole number of 400 digits.
    return isinstance(value, int | float) and abs(value) < 1e3 and math.isclose(value, wanted, rel_tol=1e-3)
