"""This module reads the settings of transformers' image processors.

A file states some settings, and the processor's class supplies the others. The class also decides what a
setting
does: the same crop_pct cuts in one class and means nothing in another. So each class that is known here has a
reader, and every other class is refused.

transformers scales and normalizes the levels 0..255. A ``Classifier`` has pixels in [0, 1] and one mean and
one deviation a channel, into which all these steps are folded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from abd_hub.core.errors import InputError, reason_of
from abd_hub.models.preprocessing import (
    MOST_CHANNELS,
    MOST_SIDE,
    Processed,
    height_and_width,
    is_number,
)
from abd_hub.models.view import Resize, View

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Maps Pillow's numbers, which image processors write into their files, to names."""
REMEDY = (
    "pass mean, std, input_size, interpolation, crop_pct and crop_mode, which then "
    "replace the image processor"
)
_SETTINGS = (
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "do_center_crop",
    "crop_size",
    "crop_pct",
    "do_rescale",
    "rescale_factor",
    "rescale_offset",
    "do_normalize",
    "include_top",
    "do_flip_channel_order",
)
_WARPED_FROM = 384
"""From this size on, ConvNext's class resizes the whole image and cuts nothing off."""
SIZE_KEYS: dict[frozenset[str], tuple[Resize, str, str]] = {
    frozenset({"height", "width"}): ("exact", "height", "width"),
    frozenset({"shortest_edge"}): ("shortest", "shortest_edge", "shortest_edge"),
    frozenset({"shortest_edge", "longest_edge"}): ("capped", "shortest_edge", "longest_edge"),
    frozenset({"max_height", "max_width"}): ("within", "max_height", "max_width"),
}
"""Maps the keys of a size to the way to resize and to the sides' keys."""

Settings = Mapping[str, Any]


def read_image_processor(raw: Settings, config: Settings, where: str) -> Processed:
    """Returns what a transformers image processor does; a mean or deviation that no file states is None.

    Args:
        raw: preprocessor_config.json, or the part ``image_processor`` of processor_config.json; empty where
            the checkpoint has neither.
        config: config.json of the same checkpoint.
        where: the checkpoint, for messages.

    Raises:
        InputError: the class is unknown, or changes images in a way that a ``Classifier`` cannot.
    """
    channels = config.get("num_channels", 3)
    if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
        shown = repr(channels)[:40]
        raise InputError(
            f"model: num_channels of {where} is {shown}; use a whole number up to {MOST_CHANNELS}"
        )
    if not raw:
        return Processed({"input_size": height_and_width(config.get("image_size"))})

    name = _class_of(raw, config)
    reader = _READERS.get(name)
    if reader is None:
        shown = repr(name)[:60]
        raise InputError(f"model: {where} is of the class {shown}, which is not known here; {REMEDY}")
    settings = _settings(name, raw, where)
    _check_flags(name, raw, settings, where)

    resample = "bilinear" if settings["resample"] is None else settings["resample"]
    filter_ = RESAMPLING.get(int(resample), resample) if isinstance(resample, int) else resample
    view = reader(settings, config, where)
    stated = _statistics(name, raw, settings, channels, where) | {
        "input_size": view.size if view else None,
        "interpolation": filter_,
    }
    return Processed(stated, view, bool(name in _FLIPS and settings["do_flip_channel_order"]))


# ----------------------------------------------------------------------------------------------- the settings


def _class_of(raw: Settings, config: Settings) -> str:
    """Returns the class's name: the file's, an older file's, or that of the model's type."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    stated = (raw.get("image_processor_type"), raw.get("feature_extractor_type"))
    name = next((name for name in (*stated, config.get("image_processor_type")) if name is not None), None)
    if name is None:
        known = IMAGE_PROCESSOR_MAPPING_NAMES.get(str(config.get("model_type")), {})
        name = known.get("torchvision")
    current = str(name).replace("FeatureExtractor", "ImageProcessor")
    return current.removesuffix("Fast").removesuffix("Pil")


def _settings(name: str, raw: Settings, where: str) -> dict[str, Any]:
    """Returns the file's settings; where it states none, those of the class of transformers."""
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    try:
        kind = get_image_processor_class_from_name(name)
    except Exception as error:  # the library's imports fail in many ways
        raise InputError(f"model: transformers cannot load {name} of {where}: {reason_of(error)}") from error
    if kind is None:
        raise InputError(f"model: this transformers has no {name}, which {where} names; {REMEDY}")

    stated = dict(raw)
    if "do_flip_channels" in raw:  # the key's older name
        stated.setdefault("do_flip_channel_order", raw["do_flip_channels"])
    # The library takes null for no, but a null crop_pct of ConvNext stops it.
    if raw.get("crop_pct") is None and name == "ConvNextImageProcessor":
        stated.pop("crop_pct", None)
    return {key: stated[key] if key in stated else getattr(kind, key, None) for key in _SETTINGS}


def _check_flags(name: str, raw: Settings, settings: Settings, where: str) -> None:
    """Refuses what the class does not do, or what cannot be done to one image alone."""
    foreign = {
        "do_flip_channel_order": _FLIPS,
        "include_top": _TOPS,
        "rescale_offset": _TOPS,
    }
    for flag, classes in foreign.items():
        if settings[flag] and name not in classes:
            raise InputError(f"model: {where} states {flag}, which {name} does not do; {REMEDY}")
    if raw.get("use_square_size"):
        raise InputError(f"model: {where} states use_square_size, which replaces its size; {REMEDY}")
    if raw.get("do_pad"):
        raise InputError(
            f"model: {where} states do_pad, which depends on the other images of a batch; {REMEDY}"
        )


def _statistics(
    name: str, raw: Settings, settings: Settings, channels: int, where: str
) -> dict[str, list[float] | None]:
    """Returns mean and deviation in pixel units, with every scaling folded in; None where none is stated."""
    factor = settings["rescale_factor"] if settings["do_rescale"] else 1.0
    if not is_number(factor) or factor <= 0:
        raise InputError(
            f"model: rescale_factor of {where} is {repr(factor)[:40]}; use a positive number, such as 1/255"
        )
    scale = 255 * factor
    scale = 1.0 if math.isclose(scale, 1, rel_tol=1e-6) else scale  # decimals of 1/255
    offset = 1.0 if settings["rescale_offset"] and settings["do_rescale"] else 0.0

    normalizes = bool(settings["do_normalize"]) and name not in _FLIPS
    mean: Any = raw.get("image_mean") if normalizes else 0.0
    std: Any = raw.get("image_std") if normalizes else 1.0
    twice: Any = raw.get("image_std") if settings["include_top"] else 1.0
    if mean is None or std is None or twice is None:
        return {
            "mean": _listed(mean, channels),
            "std": None if twice is None else _listed(std, channels),
        }

    means, stds, tops = (_listed(value, channels) for value in (mean, std, twice))
    if not all(map(_are_numbers, (means, stds, tops))):
        return {"mean": means, "std": stds}  # which the next check refuses
    return {
        "mean": [(offset + value) / scale for value in means],
        "std": [value * top / scale for value, top in zip(stds, tops, strict=False)],
    }


def _listed(value: Any, channels: int) -> Any:
    return [float(value)] * channels if is_number(value) else value


def _are_numbers(value: Any) -> bool:
    listed = isinstance(value, list | tuple) and len(value) <= MOST_CHANNELS
    return listed and all(map(is_number, value))


# -------------------------------------------------------------------------------------------------- the sizes


def _sides(value: Any, square: bool, key: str, where: str) -> tuple[Resize, tuple[int, int]]:
    """Returns the way to resize, and its sides, that a size states.

    Args:
        value: a side, a pair or a mapping, as files hold it.
        square: whether a side alone means both sides, and not the shorter one.
        key: of the setting.
        where: the checkpoint, for messages.
    """
    if type(value) is int:
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, list | tuple) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}

    stated = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
    found = SIZE_KEYS.get(frozenset(stated))
    sides = tuple(stated[name] for name in found[1:]) if found else ()
    most = 2 * MOST_SIDE
    if not found or not all(type(side) is int and 1 <= side <= most for side in sides):
        raise InputError(
            f"model: {key} of {where} is {repr(value)[:80]}, which is no size of at most {most} pixels; "
            f"{REMEDY}"
        )
    return found[0], (sides[0], sides[1])


def _crop(settings: Settings, where: str) -> tuple[int, int] | None:
    """Returns the size of the crop at the end; None without one."""
    if not settings["do_center_crop"]:
        return None
    resize, sides = _sides(settings["crop_size"], True, "crop_size", where)
    if resize != "exact":
        raise InputError(f"model: crop_size of {where} has no height and width; {REMEDY}")
    return sides


def _finished(resize: Resize, edges: tuple[int, int], crop: tuple[int, int] | None, where: str) -> View:
    """Returns the view that resizes and then crops.

    Raises:
        InputError: there is no crop, and the size of the pixels depends on the image.
    """
    if crop is None and resize != "exact":
        raise InputError(
            f"model: {where} keeps the shape of an image and cuts nothing off, and a network needs one size; "
            f"{REMEDY}"
        )
    return View(size=crop or edges, resize=resize, edges=edges, cropped=crop is not None, rounds="down")


# ------------------------------------------------------------------------------------------------ the classes


def _plain(settings: Settings, config: Settings, where: str) -> View | None:
    """Resizes, then crops."""
    crop = _crop(settings, where)
    if not settings["do_resize"]:
        size = crop or height_and_width(config.get("image_size"))
        return size and View(size=size, resize="none", edges=size, cropped=crop is not None, rounds="down")
    square = bool(settings["default_to_square"])
    return _finished(*_sides(settings["size"], square, "size", where), crop, where)


def _without_crop(settings: Settings, config: Settings, where: str) -> View | None:
    return _plain({**settings, "do_center_crop": False}, config, where)


def _convnext(settings: Settings, config: Settings, where: str) -> View | None:
    """Cuts crop_pct out below 384 pixels, and resizes the whole image from there on."""
    if not settings["do_resize"]:
        return _plain(settings, config, where)
    crop = _crop(settings, where)
    resize, (edge, _) = _sides(settings["size"], False, "size", where)
    if resize not in ("shortest", "capped"):
        raise InputError(f"model: size of {where} lacks shortest_edge; {REMEDY}")
    if edge >= _WARPED_FROM:
        return _finished("exact", (edge, edge), crop, where)
    larger = _enlarged(edge, settings["crop_pct"], where)
    if crop is not None and any(edge < side or (edge - side) % 2 for side in crop):
        raise InputError(f"model: {where} crops to {edge} and then to {crop}, which is no one crop; {REMEDY}")
    return _finished("shortest", (larger, larger), crop or (edge, edge), where)


def _levit(settings: Settings, config: Settings, where: str) -> View | None:
    """Resizes the shorter side to 256/224 of the stated one."""
    if not settings["do_resize"]:
        return _plain(settings, config, where)
    resize, edges = _sides(settings["size"], False, "size", where)
    if resize in ("shortest", "capped"):
        larger = int((256 / 224) * edges[0])
        resize, edges = "shortest", (larger, larger)
    return _finished(resize, edges, _crop(settings, where), where)


def _poolformer(settings: Settings, config: Settings, where: str) -> View | None:
    """Resizes the shorter side to the stated one over crop_pct."""
    if not settings["do_resize"]:
        return _plain(settings, config, where)
    if settings["crop_pct"] is None:
        return _plain(settings, config, where)
    resize, edges = _sides(settings["size"], False, "size", where)
    if resize == "within":
        raise InputError(f"model: size of {where} has neither shortest_edge nor height and width; {REMEDY}")
    first, second = (_enlarged(edge, settings["crop_pct"], where) for edge in edges)
    if resize == "exact" and first != second:
        return _finished("exact", (first, second), _crop(settings, where), where)
    return _finished("shortest", (first, first), _crop(settings, where), where)


def _perceiver(settings: Settings, config: Settings, where: str) -> View | None:
    """Crops to a share of the shorter side, then resizes."""
    crop = _crop(settings, where)
    if crop is None:
        return _plain(settings, config, where)
    if not settings["do_resize"]:
        raise InputError(f"model: {where} crops but does not resize, so that sizes differ; {REMEDY}")
    resize, size = _sides(settings["size"], True, "size", where)
    if resize != "exact":
        raise InputError(f"model: size of {where} has no height and width; {REMEDY}")
    return View(size=size, resize="square", edges=crop, cropped=False, rounds="down")


def _enlarged(edge: int, crop_pct: Any, where: str) -> int:
    if type(crop_pct) not in (int, float) or not edge / (2 * MOST_SIDE) <= crop_pct <= edge:
        raise InputError(f"model: crop_pct of {where} is {repr(crop_pct)[:40]}, no share; {REMEDY}")
    return int(edge / crop_pct)


Reader = Callable[[Settings, Settings, str], View | None]
_READERS: dict[str, Reader] = {
    "BeitImageProcessor": _plain,
    "BitImageProcessor": _plain,
    "CLIPImageProcessor": _plain,
    "ChineseCLIPImageProcessor": _plain,
    "ConvNextImageProcessor": _convnext,
    "DeiTImageProcessor": _plain,
    "EfficientNetImageProcessor": _plain,
    "LevitImageProcessor": _levit,
    "MobileNetV1ImageProcessor": _plain,
    "MobileNetV2ImageProcessor": _plain,
    "MobileViTImageProcessor": _plain,
    "PerceiverImageProcessor": _perceiver,
    "PoolFormerImageProcessor": _poolformer,
    "PvtImageProcessor": _plain,
    "SegformerImageProcessor": _without_crop,
    "SiglipImageProcessor": _plain,
    "ViTImageProcessor": _plain,
}
"""Maps the classes that are known here to their readers."""
_FLIPS = ("MobileViTImageProcessor",)
"""Names the class that reverses the channels; it never normalizes."""
_TOPS = ("EfficientNetImageProcessor",)
"""Names the class that divides by the deviation twice, and that shifts the scaled levels by one."""
