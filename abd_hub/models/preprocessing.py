"""This module decides the preprocessing of a checkpoint's images.

The caller's value wins over the checkpoint's, and a missing mean, deviation or size is an error. timm and
transformers fill gaps with ImageNet's numbers. So only the numbers written in the JSON count.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from abd_hub.core.errors import InputError, MissingOptions
from abd_hub.hub.listing import MOST_CLASSES
from abd_hub.hub.pull import MAX_SIZE_GB
from abd_hub.models.resampling import INTERPOLATIONS
from abd_hub.models.view import CROP_MODES, DEFAULT_CROP_PCT, View, timm_view

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

MOST_SIDE, MOST_CHANNELS = 4096, 64
"""A stranger's configuration may state a billion, and memory is taken for what it states."""


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
    crop_pct: float | None = None
    crop_mode: str | None = None
    blocks: Sequence[str] = ()
    model_args: Mapping[str, Any] | None = None
    allow_flagged: bool = False
    max_size_gb: float = MAX_SIZE_GB


@dataclass(frozen=True)
class Images:
    """Holds the complete preprocessing of a checkpoint's images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    view: View
    """Makes the pixels of the network's input."""
    flip_channels: bool = False
    """Says whether the network takes the channels in reverse order, after normalizing."""


@dataclass(frozen=True)
class Processed:
    """Holds what an image processor of transformers does."""

    stated: Mapping[str, Any]
    """Holds mean, std, input_size and interpolation by timm's names."""
    view: View | None = None
    """Makes the pixels of the network's input; None where no file states how."""
    flip_channels: bool = False


def decide_images(
    said: Mapping[str, Any],
    options: Options,
    where: str,
    interpolation: str = "bilinear",
    *,
    processed: Processed | None = None,
) -> Images:
    """Decides the preprocessing: an option wins over the checkpoint's value.

    Args:
        said: the checkpoint's values by timm's names: mean, std, input_size, interpolation, crop_pct,
            crop_mode. If empty, nothing is cut off and the whole image is resized.
        options: the caller's.
        where: the checkpoint, for messages.
        interpolation: used where neither names one.
        processed: what transformers' image processor does, in place of crop_pct and crop_mode.

    Raises:
        InputError: mean, std or size is missing in both, or a value is wrong.
    """
    lacking = missing_images(said, options)
    if lacking:
        them = "it" if len(lacking) == 1 else "them"
        raise MissingOptions(f"{where} does not give {them}", lacking)
    mean = _numbers("mean", options.mean if options.mean is not None else said.get("mean"), where)
    std = _numbers("std", options.std if options.std is not None else said.get("std"), where)
    if len(mean) != len(std):
        raise InputError(f"std: {len(std)} numbers for {len(mean)} of mean; pass one a channel in both")
    if min(std) <= 0:
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")

    size = _decide_size(said, options, where)
    chosen = options.interpolation or said.get("interpolation") or interpolation
    if chosen not in INTERPOLATIONS:
        raise InputError(f"interpolation: {chosen!r} is not offered; use one of {', '.join(INTERPOLATIONS)}")

    view = _decide_view(said, options, where, processed, timm_view(size, interpolation=chosen), mean)
    return Images(mean, std, size, view, processed is not None and processed.flip_channels)


def missing_images(said: Mapping[str, Any], options: Options) -> dict[str, str]:
    """Returns what neither a checkpoint nor the caller states, with an example for each."""
    examples = {
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.25, 0.25, 0.25]",
        "input_size": "32",
    }
    return {
        name: example
        for name, example in examples.items()
        if getattr(options, name) is None and said.get(name) is None
    }


def _decide_view(
    said: Mapping[str, Any],
    options: Options,
    where: str,
    processed: Processed | None,
    whole: View,
    mean: tuple[float, ...],
) -> View:
    """Returns the view; ``whole`` resizes whole images to the input, and has the interpolation."""
    if processed is not None and processed.view is not None:
        stated = replace(processed.view.scaled(whole.size), interpolation=whole.interpolation)
        if options.crop_pct is None and options.crop_mode is None:
            return stated
        return _view(stated.stated_pct, stated.crop_mode, options, stated, mean)

    if processed is not None or not said:
        mode = "squash" if options.crop_pct is None else "center"
        return _view(1.0, mode, options, whole, mean)
    if said.get("crop_border_pixels"):
        raise InputError(
            f"model: {where} states crop_border_pixels, which timm's own evaluation leaves out; remove it"
            " from the configuration, or cut the border off the images"
        )
    return _view(*_stated_crop(said, options, where), options, whole, mean)


def _decide_size(said: Mapping[str, Any], options: Options, where: str) -> tuple[int, int]:
    stated_size = options.input_size if options.input_size is not None else said.get("input_size")
    size = height_and_width(stated_size)
    if size is None or min(size) < 1:
        raise InputError(f"input_size: {stated_size!r} is not a height and a width; pass for example 32")
    if max(size) > MOST_SIDE:
        raise InputError(
            f"input_size: {where} states {size[0]}x{size[1]}; use one of at most {MOST_SIDE} pixels"
        )
    return size


def _stated_crop(said: Mapping[str, Any], options: Options, where: str) -> tuple[Any, Any]:
    """Returns timm's crop_pct and crop_mode, with timm's defaults where the configuration states none."""
    pct = said.get("crop_pct")
    if not pct:
        pct = DEFAULT_CROP_PCT
        if options.crop_pct is None:
            logger.warning(
                "%s states no crop_pct, so timm's default of %s is used; set crop_pct to change it.",
                where,
                pct,
            )
    return pct, said.get("crop_mode") or "center"


def _view(pct: Any, mode: Any, options: Options, like: View, mean: tuple[float, ...]) -> View:
    """Returns timm's view with the caller's crop_pct and crop_mode, or else those given."""
    pct = options.crop_pct if options.crop_pct is not None else pct
    mode = options.crop_mode if options.crop_mode is not None else mode
    if mode not in CROP_MODES:
        raise InputError(f"crop_mode: {mode!r} is not offered; use one of {', '.join(CROP_MODES)}")

    number = is_number(pct)
    if not number or not max(like.size) / (2 * MOST_SIDE) <= pct <= min(like.size):
        raise InputError(
            f"crop_pct: {pct!r} is no share that fits an input of {like.size[0]}x{like.size[1]}; pass the "
            "input's side over the resized side, such as 0.875, or 1 to cut nothing off"
        )
    return timm_view(like.size, float(pct), mode, like.interpolation, mean, rounds=like.rounds)


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


def is_number(value: Any) -> bool:
    """Returns whether this is a finite number, and no whole number of hundreds of digits."""
    return type(value) in (int, float) and abs(value) < 1e12


def shortest_decimals(numbers: Tensor) -> list[float]:
    """Returns the shortest decimals for these float32 numbers: 0.1, not 0.10000000149011612."""
    return [float(str(number)) for number in numbers.flatten().float().cpu().numpy()]


def _numbers(name: str, value: Any, where: str) -> tuple[float, ...]:
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
