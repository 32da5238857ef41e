"""This module reads checkpoints of timm: a folder with timm's config.json, or a bare file of weights."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor, nn

import abd_hub.students  # noqa: F401 - registers the students with timm
from abd_hub.core.errors import InputError, MissingOptions, reason_of
from abd_hub.core.pickles import is_pickle
from abd_hub.core.records import ModelRef
from abd_hub.hub.pull import Place
from abd_hub.models.bounds import check_args, no_larger_than
from abd_hub.models.checkpoint_files import Loaded, one_file
from abd_hub.models.preprocessing import (
    Images,
    Options,
    decide_images,
    decide_labels,
    height_and_width,
    missing_images,
)
from abd_hub.models.stems import (
    STEM_ARGS,
    check_stem,
    give_small_stem,
    has_small_stem,
    unusual,
    warn_of_guess,
)
from abd_hub.models.weights import (
    MISFIT_REMEDY,
    check_types,
    describe_misfit,
    file_sha256,
    fill,
    first_few,
    in_names_of_timm,
    read_tensors,
    without_prefix,
)

SOURCE_FIELDS = ("source", "file", "url", "hf_hub_id", "hf_hub_filename", "state_dict")
"""Lists the fields of timm's pretrained_cfg that name a place to load from."""
SIZES = ("num_classes", "in_chans")
"""Lists the arguments of an architecture that follow from labels and images."""
FACTORY_ARGS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "out_indices",
)
"""Lists the arguments of timm's factory, which a checkpoint's model_args must not set."""


def timm_names_near(name: str) -> str:
    """Returns the timm names closest to ``name``, for messages."""
    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
    return ", ".join(near) or "timm.list_models()"


def registered_cfg(name: str) -> Any:
    """Returns timm's pretrained_cfg of a name with or without a tag; None where timm has none.

    Raises:
        InputError: timm has no such architecture or no such tag.
    """
    _check_timm_name(name)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = first_few(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise InputError(f"model: timm has no weights {name!r}; use one of {known}") from error


def build_timm(
    architecture: str,
    model_args: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Returns a timm model with ``tensors``, which timm itself loads, or with fresh weights.

    timm's loading resizes position embeddings and stems.

    Raises:
        InputError: the name is unknown, an argument is wrong or the tensors do not fit.
    """
    _check_timm_name(architecture)
    bad = sorted(set(model_args) & set(FACTORY_ARGS))
    if bad:
        raise InputError(f"model_args: {bad[0]!r} is not an argument of a model; leave it out")

    cfg = dict(pretrained_cfg or {}) or None
    if cfg is not None and tensors is not None:
        cfg["state_dict"] = dict(tensors)

    try:
        model: nn.Module = timm.create_model(
            architecture, pretrained=tensors is not None, pretrained_cfg=cfg, **model_args
        )
    except Exception as error:  # architectures raise errors of every type for a stranger's arguments
        arguments = f" with {dict(model_args)}" if model_args else ""
        raise InputError(
            f"architecture: {architecture}{arguments} cannot be built: {reason_of(error)}"
        ) from error

    own_cfg: Any = model.pretrained_cfg
    own_cfg.pop("state_dict", None)  # or memory would hold the weights twice
    return model


def load_timm_folder(place: Place, config: Mapping[str, Any], options: Options) -> Loaded:
    """Reads a folder whose config.json is timm's.

    Raises:
        InputError: the configuration, an option or the weights are wrong, or they contradict each other.
    """
    raw = config.get("pretrained_cfg", config)
    model_args = config.get("model_args") or {}
    if not isinstance(raw, dict) or not isinstance(model_args, dict):
        raise InputError(
            f"model: config.json of {place.id} is malformed; write it anew with timm's save_for_hf"
        )

    model_args = {key: value for key, value in model_args.items() if key not in SIZES}
    model_args |= _own_args(options)
    built_for = height_and_width(model_args.get("img_size"))
    if raw.get("fixed_input_size") and built_for is not None:
        raw = raw | {"input_size": built_for}  # the weights fit this size, even where the two disagree
    name = _without_tag(options.architecture or str(config["architecture"]))
    images = decide_images(raw, options, f"config.json of {place.id}", interpolation="bicubic")

    file = one_file(place, options.allow_pickle)
    tensors, known = _tensors(file, options, name)
    places = ((config, "label_names"), (raw, "label_names"), (config, "labels"), (raw, "labels"))
    names = next((place[name] for place, name in places if place.get(name)), None)  # older ones say labels
    classes = config.get("num_classes", raw.get("num_classes")) or _head_size(name, tensors)
    labels = decide_labels(names, classes, options, place.id)

    ref = ModelRef(place.id, name, place.revision, file_sha256([file]), place.scan)
    return _fill_timm(name, tensors, images, labels, ref=ref, raw=raw, model_args=known | model_args)


def load_weights_file(path: Path, options: Options) -> Loaded:
    """Reads a bare state dict; only the caller can describe its architecture and images.

    Raises:
        InputError: the architecture is missing, or an option or the weights are wrong.
    """
    _check_bare(path, options)
    assert options.architecture is not None, "it has been checked"
    name = _without_tag(options.architecture)
    images = decide_images({}, options, path.name)
    tensors, known = _tensors(path, options, name)
    labels = decide_labels(None, _head_size(name, tensors), options, path.name)
    ref = ModelRef(path.name, name, sha256=file_sha256([path]))
    args = known | _own_args(options)
    return _fill_timm(name, tensors, images, labels, ref=ref, raw={}, model_args=args)


def _check_bare(path: Path, options: Options) -> None:
    """Refuses a bare file of weights without all that describes it, and a pickle without permission first.

    Raises:
        MissingOptions: something is missing; the message names all of it.
    """
    missing = {"architecture": "NAME"} if options.architecture is None else {}
    missing |= missing_images({}, options)
    if missing and is_pickle(path) and not options.allow_pickle:
        missing = {"allow_pickle": "true"} | missing
        raise MissingOptions(f"{path.name} is a pickle, of which only tensors would be read", missing)
    if missing:
        raise MissingOptions(f"{path.name} holds weights only", missing)


def _own_args(options: Options) -> dict[str, Any]:
    """Returns the caller's arguments of the architecture; refuses those that follow from other options."""
    given = dict(options.model_args or {})
    sizes = sorted(set(SIZES) & set(given))
    if sizes:
        raise InputError(f"model_args: {sizes[0]} follows from labels and mean; leave it out")
    return given


def _tensors(file: Path, options: Options, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors in timm's names, and the arguments of the network that their own names tell."""
    read = without_prefix(read_tensors(file, allow_pickle=options.allow_pickle), ())
    tensors = in_names_of_timm(read, _head_of(name))
    return tensors, {} if set(tensors) == set(read) else {"stem_pool": False}


def _check_timm_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"architecture: {name!r} is unknown to timm; did you mean {timm_names_near(name)}?")


def _without_tag(name: str) -> str:
    """Returns the architecture's name; a tag names weights, which come from elsewhere here."""
    _check_timm_name(name)
    return name.partition(".")[0]


def _fill_timm(
    name: str,
    tensors: Mapping[str, Tensor],
    images: Images,
    labels: tuple[str, ...],
    *,
    ref: ModelRef,
    raw: Mapping[str, Any],
    model_args: Mapping[str, Any],
) -> Loaded:
    check_stem(model_args)
    check_args(model_args)
    stem = {key: value for key, value in model_args.items() if key in STEM_ARGS}
    kept = {key: value for key, value in model_args.items() if key not in STEM_ARGS}
    cfg = _timm_cfg(name, raw, images, len(labels))
    args = {**kept, "num_classes": len(labels), "in_chans": len(images.mean)}
    if cfg["fixed_input_size"]:
        args["img_size"] = images.size
    sizes = [tensor.numel() for tensor in tensors.values()]
    with no_larger_than(sizes):
        fresh = build_timm(name, args)
    check_types(fresh.state_dict(), tensors, ref.id)
    kept.pop("img_size", None)

    if has_small_stem(fresh, tensors):
        give_small_stem(fresh, stem)
        fill(fresh, tensors, ref.id)
        if not stem:
            warn_of_guess(ref.id)
        twin = f"{name}_cifar" if timm.is_model(f"{name}_cifar") else ""
        ref = dataclasses.replace(ref, architecture=twin or f"{name} with a CIFAR stem")
        return Loaded(fresh, ref, labels, images, twin, kept | unusual(stem))

    try:
        with no_larger_than(sizes):
            model = build_timm(name, args | unusual(stem), cfg, tensors)
    except InputError as error:
        misfit = describe_misfit(fresh.state_dict(), tensors) or reason_of(error)
        raise InputError(f"weights: {ref.id} does not fit {name} ({misfit}); {MISFIT_REMEDY}") from error
    return Loaded(model, ref, labels, images, name, kept | unusual(stem))


def _timm_cfg(name: str, raw: Mapping[str, Any], images: Images, classes: int) -> dict[str, Any]:
    """Returns the pretrained_cfg with which timm loads the checkpoint, without any address to fetch from."""
    known = registered_cfg(name)
    cfg = {key: getattr(known, key, None) for key in ("first_conv", "classifier", "fixed_input_size")}
    fields = {entry.name for entry in dataclasses.fields(PretrainedCfg)} - set(SOURCE_FIELDS)
    cfg |= {key: value for key, value in raw.items() if key in fields}

    size = height_and_width(raw.get("input_size")) or images.size
    cfg |= {"architecture": name, "num_classes": classes, "custom_load": False}
    return {**cfg, "input_size": (len(images.mean), *size)}


def _head_of(name: str) -> str:
    """Returns timm's name of the last linear layer; empty where timm states none."""
    heads = getattr(registered_cfg(name), "classifier", None) or ""
    return heads if isinstance(heads, str) else str(heads[0])


def _head_size(name: str, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get(f"{_head_of(name)}.weight")
    return None if weight is None or not weight.ndim else int(weight.shape[0])
