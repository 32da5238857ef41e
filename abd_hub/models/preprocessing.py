"""What images a checkpoint wants: what the caller says, else what the checkpoint says, else an error.

timm and transformers fill gaps with ImageNet's numbers, so only what is written in the JSON counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abd_hub.core.errors import InputError
from abd_hub.hub.listing import MOST_CLASSES
from abd_hub.hub.pull import MAX_SIZE_GB

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, which image processors write into their files."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a classifier comes from and what the caller says about it; None leaves it to the checkpoint."""

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
    """How a checkpoint wants its images: decided, nothing missing."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    interpolation: str


def decide_images(
    said: Mapping[str, Any], options: Options, where: str, interpolation: str = "bilinear"
) -> Images:
    """Puts the options over what the checkpoint ``said`` in timm's words: mean, std, input_size.

    Raises:
        InputError: mean, std or size is missing in both, or one of them is wrong.
    """
    mean = _numbers("mean", options.mean if options.mean is not None else said.get("mean"), where)
    std = _numbers("std", options.std if options.std is not None else said.get("std"), where)
    if len(mean) != len(std):
        raise InputError(f"std: {len(std)} numbers for {len(mean)} of mean; pass one a channel in both")
    if min(std) <= 0:
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")
    given = options.input_size if options.input_size is not None else said.get("input_size")
    if given is None:
        raise InputError(f"input_size: {where} does not give it; pass input_size, for example 32")
    size = height_and_width(given)
    if size is None or min(size) < 1:
        raise InputError(f"input_size: {given!r} is not a height and a width; pass for example 32")
    chosen = options.interpolation or said.get("interpolation") or interpolation
    if chosen not in INTERPOLATIONS:
        raise InputError(f"interpolation: {chosen!r} is not offered; pass one of {', '.join(INTERPOLATIONS)}")
    return Images(mean, std, size, chosen)


def decide_labels(names: Any, classes: Any, options: Options, where: str) -> tuple[str, ...]:
    """One label a class: the caller's, else the checkpoint's ``names``, else the class numbers.

    Raises:
        InputError: nothing tells how many classes there are, or counts disagree.
    """
    given = options.labels
    if classes is None:
        classes = options.num_classes or (len(given) if given is not None else None)
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"num_classes: {where} does not give it; pass num_classes or labels")
    if classes > MOST_CLASSES:
        raise InputError(f"num_classes: {where} has {classes}; at most {MOST_CLASSES:,} are possible")
    if options.num_classes is not None and options.num_classes != classes:
        raise InputError(
            f"num_classes: {options.num_classes} given, but {where} has {classes} classes; leave it out"
        )
    if given is not None:
        if len(given) != classes:
            raise InputError(f"labels: {len(given)} given for {classes} classes of {where}; pass one a class")
        return tuple(map(str, given))
    if isinstance(names, dict):  # timm's form where some class numbers have no name
        return tuple(str(names.get(str(index), index)) for index in range(classes))
    if isinstance(names, list | tuple) and names:
        if len(names) != classes:
            raise InputError(f"labels: {where} names {len(names)} for {classes} classes; pass labels")
        return tuple(map(str, names))
    return tuple(map(str, range(classes)))


def read_image_processor(raw: Mapping[str, Any], config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A transformers image processor's settings in timm's words; what it does not say is left out.

    Args:
        raw: preprocessor_config.json.
        config: config.json of the same checkpoint.
        where: the checkpoint, for messages.

    Raises:
        InputError: it does something to images that a ``Classifier`` cannot do.
    """
    remedy = "pass mean, std and input_size to override it"
    for flag in ("do_flip_channel_order", "include_top", "do_pad"):
        if raw.get(flag):
            raise InputError(f"model: {where} uses {flag}, which has no counterpart here; {remedy}")
    factor = raw.get("rescale_factor", 1 / 255)
    if not raw.get("do_rescale", True) or not _close(factor, 1 / 255):
        raise InputError(f"model: {where} does not scale pixels by 1/255; {remedy}")
    said = {"mean": raw.get("image_mean"), "std": raw.get("image_std")}
    if not raw.get("do_normalize", True):
        said = {"mean": 0.0, "std": 1.0}
    channels = config.get("num_channels", 3)
    for name, value in said.items():
        said[name] = [value] * channels if isinstance(value, int | float) else value
    cropped = raw.get("crop_size") if raw.get("do_center_crop", "crop_size" in raw) else None
    resized = raw.get("size") if raw.get("do_resize", True) else None
    sizes = map(height_and_width, (cropped, resized, config.get("image_size")))
    said["input_size"] = next((size for size in sizes if size is not None), None)
    resample = raw.get("resample")
    said["interpolation"] = RESAMPLING.get(resample, resample) if isinstance(resample, int) else resample
    return said


def height_and_width(size: Any) -> tuple[int, int] | None:
    """From a side, (H, W), timm's (C, H, W) or one of transformers' size dicts; None if it is none."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    if isinstance(size, int):
        size = (size, size)
    if isinstance(size, list | tuple) and len(size) in (2, 3) and all(isinstance(n, int) for n in size):
        return size[-2], size[-1]
    return None


def _numbers(name: str, value: Any, where: str) -> tuple[float, ...]:
    if value is None:
        neutral = 0 if name == "mean" else 1
        raise InputError(
            f"{name}: {where} does not give it; pass {name}, one number a channel for pixels in [0, 1]"
            f" ({neutral} each if the model takes them as they are)"
        )
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {value!r} is not a list of numbers; pass one number a channel") from error
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{name}: {value!r} is not a list of finite numbers; pass one number a channel")
    return numbers


def _close(value: Any, wanted: float) -> bool:
    return isinstance(value, int | float) and math.isclose(value, wanted, rel_tol=1e-3)
