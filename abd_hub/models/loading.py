"""This module finds a pretrained classifier and reads it with the preprocessing of its checkpoint.

``load`` has three steps:

1. It fetches a Hub repository into a local folder at a pinned commit.
2. It reads a timm folder, a transformers folder or a bare weights file, and the preprocessing stated there.
3. It decides between the caller's options, which win, and the checkpoint (see preprocessing).

A value that neither gives is an error. No code of a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from abd_hub.core.errors import InputError, MissingOptions
from abd_hub.core.pickles import is_pickle
from abd_hub.core.records import DataSpec
from abd_hub.hub.listing import check_classes
from abd_hub.hub.pull import Place, fetch
from abd_hub.models.checkpoint_files import Loaded, one_file, read_json
from abd_hub.models.preprocessing import Options, missing_images
from abd_hub.models.timm_checkpoints import (
    SOURCE_FIELDS,
    build_timm,
    load_timm_folder,
    load_weights_file,
    registered_cfg,
    timm_names_near,
)
from abd_hub.models.timm_wrapper import as_timm, is_timm_wrapper
from abd_hub.models.transformers_checkpoints import load_transformers_folder
from abd_hub.models.weights import read_tensors


def load(options: Options) -> Loaded:
    """Loads the source of ``options`` (see ``abd_hub.models.classifier.load_classifier``).

    Raises:
        InputError: the source or an option is wrong.
    """
    source, revision = options.source, options.revision
    repository, tagged = _hub_id(source)
    if repository is not None:
        if tagged and revision and tagged != revision:
            raise InputError(f"revision: {revision!r} and {source!r} disagree; give the revision once")
        return _load_folder(_pull(repository, tagged or revision, options), options)

    if revision is not None:
        raise InputError(f"revision: {revision!r} has no meaning for {source!r}; leave it out")
    if _is_timm_name(source):
        return _load_folder(_timm_weights(source, options), options)

    path = Path(source.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return _load_folder(Place(path, path.resolve().name), options)
    if path.is_file() and not source.startswith("local-dir:"):
        return load_weights_file(path, options)
    raise InputError(_unknown_source(source))


def build_student(
    architecture: str, spec: DataSpec, model_args: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """Returns a timm model for these images and labels, with fresh or timm's pretrained weights.

    Raises:
        InputError: timm has no such architecture, has no weights for it, or cannot build it.
    """
    cfg = registered_cfg(architecture)
    own = sorted({"num_classes", "in_chans"} & set(model_args))
    if own:
        raise InputError(f"model_args: {own[0]} follows from the data; leave it out")

    args = {**model_args, "num_classes": spec.num_classes, "in_chans": spec.channels}
    if cfg is not None and cfg.fixed_input_size:
        args.setdefault("img_size", (spec.height, spec.width))
    if not pretrained:
        return build_timm(architecture, args)

    place = _timm_weights(architecture, Options(source=architecture))
    tensors = read_tensors(one_file(place, allow_pickle=False), allow_pickle=False)
    source = {key: value for key, value in cfg.to_dict().items() if key not in SOURCE_FIELDS}
    return build_timm(architecture, args, {**source, "custom_load": False}, tensors)


def _hub_id(source: str) -> tuple[str | None, str | None]:
    """Splits ``[hf-hub:]org/name[@revision]``; returns (None, None) for another source.

    A path that exists is never a Hub id.
    """
    explicit = source.startswith("hf-hub:")
    name, _, revision = source.removeprefix("hf-hub:").partition("@")
    parts = name.split("/")
    plain = len(parts) == 2 and all(parts) and ":" not in name and parts[0] not in (".", "..", "~")
    if explicit or (plain and not _looks_like_weights(name) and not Path(source).exists()):
        return name, revision or None
    return None, None


def _is_timm_name(source: str) -> bool:
    plain = not any(sign in source for sign in "/\\:") and not _looks_like_weights(source)
    return plain and timm.is_model(source.partition(".")[0])


def _looks_like_weights(name: str) -> bool:
    return is_pickle(name) or Path(name).suffix == ".safetensors"


def _unknown_source(source: str) -> str:
    if source.startswith("local-dir:") or "/" in source or _looks_like_weights(source):
        return f"model: {source!r} does not exist; check the path, or use 'hf-hub:org/name' for the Hub"
    near = timm_names_near(source)
    return (
        f"model: {source!r} is neither a path nor a name of timm (did you mean {near}?); use 'org/name' for"
        " the Hub"
    )


def _pull(repository: str, revision: str | None, options: Options) -> Place:
    return fetch(
        repository,
        revision,
        options.allow_pickle,
        allow_flagged=options.allow_flagged,
        max_size_gb=options.max_size_gb,
    )


def _timm_weights(name: str, options: Options) -> Place:
    cfg = registered_cfg(name)
    if not getattr(cfg, "hf_hub_id", None):
        raise InputError(
            f"model: timm has no pretrained weights for {name!r}; use a checkpoint's name, or its file with"
            f" architecture={name}"
        )
    return _pull(cfg.hf_hub_id, None, options)


def _load_folder(place: Place, options: Options) -> Loaded:
    if not (place.folder / "config.json").is_file():
        if options.architecture is None:
            raise MissingOptions(
                f"{place.id} has no config.json", {"architecture": "NAME", **missing_images({}, options)}
            )
        loaded = load_weights_file(one_file(place, options.allow_pickle), options)
        ref = dataclasses.replace(loaded.ref, id=place.id, revision=place.revision, scan=place.scan)
        return dataclasses.replace(loaded, ref=ref)

    config = read_json(place.folder / "config.json")
    problem = check_classes(config)
    if problem:
        raise InputError(f"model: config.json of {place.id}: {problem}")

    if is_timm_wrapper(config):
        config = as_timm(place, config)
    if "architecture" in config:
        return load_timm_folder(place, config, options)
    if "model_type" in config or "architectures" in config:
        return load_transformers_folder(place, config, options)
    raise InputError(
        f"model: config.json of {place.id} is neither timm's nor transformers'; use its weights file instead"
    )
