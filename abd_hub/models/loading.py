"""Finding a pretrained classifier, wherever it is, and what its checkpoint says about its images.

``load`` goes through three steps. *Fetch*: a Hub repository becomes a local folder at a pinned commit.
*Read*: a timm folder, a transformers folder or a bare weights file becomes a module and the
preprocessing that the checkpoint itself states. *Decide*: the caller's options win over the checkpoint,
and what neither gives is an error (see preprocessing). Nothing that comes with a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from timm.models.resnet import ResNet
from torch import Tensor, nn

import abd_hub.students  # noqa: F401 - so that timm knows the students' names
from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.pickles import is_pickle
from abd_hub.core.records import DataSpec, ModelRef
from abd_hub.hub.listing import check_classes
from abd_hub.hub.pull import Place, fetch, shards_of
from abd_hub.models.preprocessing import (
    Images,
    Options,
    decide_images,
    decide_labels,
    height_and_width,
    read_image_processor,
)
from abd_hub.models.weights import (
    describe_misfit,
    file_sha256,
    fill,
    first_few,
    read_tensors,
    without_prefix,
)
from abd_hub.students.resnet_cifar import use_cifar_stem

SOURCE_FIELDS = ("source", "file", "url", "hf_hub_id", "hf_hub_filename", "state_dict")
"""Fields of timm's pretrained_cfg that name a place to load from."""
FACTORY_ARGS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments of timm's factory, which a checkpoint's model_args must not set."""


@dataclass(frozen=True)
class Loaded:
    """A module with its weights, and everything the checkpoint and the caller said about it."""

    model: nn.Module
    ref: ModelRef
    labels: tuple[str, ...]
    images: Images
    architecture: str = ""
    """timm's name; empty when timm cannot build the module again."""
    model_args: Mapping[str, Any] = field(default_factory=dict)


def load(source: str, revision: str | None, options: Options) -> Loaded:
    """Loads ``source`` (see ``abd_hub.models.classifier.load_classifier``).

    Raises:
        InputError: anything about the source or the options is wrong.
    """
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
        return _load_file(path, options)
    raise InputError(_unknown_source(source))


def timm_names_near(name: str) -> str:
    """The timm names closest to ``name``, for messages."""
    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
    return ", ".join(near) or "timm.list_models()"


def registered_cfg(name: str) -> Any:
    """timm's pretrained_cfg of a name with or without a tag; None where it has none.

    Raises:
        InputError: timm does not know the name or the tag.
    """
    _check_timm_name(name)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = first_few(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise InputError(f"model: timm has no weights {name!r}; it has {known}") from error


def build_timm(
    architecture: str,
    model_args: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A timm model, with ``tensors`` as timm itself would load them or with fresh weights.

    timm's own loading is used because it knows how to resize position embeddings and stems.

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
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        given = f" with {dict(model_args)}" if model_args else ""
        raise InputError(
            f"architecture: {architecture}{given} cannot be built: {reason_of(error)}"
        ) from error
    kept: Any = model.pretrained_cfg
    kept.pop("state_dict", None)  # or the weights would be held twice
    return model


def build_student(
    architecture: str, spec: DataSpec, model_args: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """A timm model for these images and labels, with fresh weights or timm's pretrained ones.

    Raises:
        InputError: timm does not know the name, has no weights for it, or cannot build it.
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
    place = _timm_weights(architecture, Options())
    tensors = read_tensors(_one_file(place, allow_pickle=False), allow_pickle=False)
    source = {key: value for key, value in cfg.to_dict().items() if key not in SOURCE_FIELDS}
    return build_timm(architecture, args, {**source, "custom_load": False}, tensors)


# ------------------------------------------------------------------------------------------------ sources


def _check_timm_name(name: str) -> None:
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"architecture: {name!r} is unknown to timm; did you mean {timm_names_near(name)}?")


def _without_tag(name: str) -> str:
    """The architecture's name; a tag names weights, which come from elsewhere here."""
    _check_timm_name(name)
    return name.partition(".")[0]


def _hub_id(source: str) -> tuple[str | None, str | None]:
    """``hf-hub:org/name@revision`` or ``org/name@revision``; a path that exists is never a Hub id."""
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
    return f"model: {source!r} is no path and unknown to timm (did you mean {near}?); Hub ids are 'org/name'"


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
            f"model: timm has no pretrained weights for {name!r}; name a checkpoint, or pass its file with"
            f" architecture={name}"
        )
    return _pull(cfg.hf_hub_id, None, options)


def _load_folder(place: Place, options: Options) -> Loaded:
    if not (place.folder / "config.json").is_file():
        if options.architecture is None:
            raise InputError(
                f"model: {place.id} has no config.json; pass architecture, mean, std and input_size"
            )
        loaded = _load_file(_one_file(place, options.allow_pickle), options)
        ref = dataclasses.replace(loaded.ref, id=place.id, revision=place.revision, scan=place.scan)
        return dataclasses.replace(loaded, ref=ref)
    config = _json(place.folder / "config.json")
    problem = check_classes(config)
    if problem:
        raise InputError(f"model: config.json of {place.id}: {problem}")
    if "architecture" in config:
        return _load_timm_folder(place, config, options)
    if "model_type" in config or "architectures" in config:
        return _load_transformers_folder(place, config, options)
    raise InputError(
        f"model: config.json of {place.id} is neither timm's nor transformers'; pass its weights file"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"model: {path.name} cannot be read as JSON: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"model: {path.name} holds {type(content).__name__}, not an object")
    return content


def _weights_of(place: Place, allow_pickle: bool) -> list[Path]:
    """The weights files of a folder: one, or the parts of a transformers checkpoint."""
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", "*.safetensors"):
        found = sorted(place.folder.glob(pattern))
        if found:
            return found
    pickles = sorted(file for file in place.folder.iterdir() if is_pickle(file))
    if pickles and allow_pickle:
        return pickles
    if not allow_pickle and (pickles or place.revision):  # a Hub's pickles are fetched with permission only
        raise InputError(
            f"weights: {place.id} has no safetensors file; pass allow_pickle=true if its pickle may be read"
        )
    raise InputError(f"weights: {place.id} has no weights file; expected model.safetensors")


def _one_file(place: Place, allow_pickle: bool) -> Path:
    files = _weights_of(place, allow_pickle)
    if len(files) > 1:
        names = first_few(file.name for file in files)
        raise InputError(f"weights: {place.id} has several weights files ({names}); keep one in the folder")
    return files[0]


# --------------------------------------------------------------------------------------------------- timm


def _load_timm_folder(place: Place, config: Mapping[str, Any], options: Options) -> Loaded:
    raw = config.get("pretrained_cfg", config)
    model_args = config.get("model_args") or {}
    if not isinstance(raw, dict) or not isinstance(model_args, dict):
        raise InputError(
            f"model: config.json of {place.id} is malformed; write it anew with timm's save_for_hf"
        )
    model_args = {key: value for key, value in model_args.items() if key not in ("num_classes", "in_chans")}
    built_for = height_and_width(model_args.get("img_size"))
    if raw.get("fixed_input_size") and built_for is not None:
        raw = raw | {"input_size": built_for}  # what the weights fit, even where the two disagree
    name = _without_tag(options.architecture or str(config["architecture"]))
    images = decide_images(raw, options, f"config.json of {place.id}", interpolation="bicubic")
    file = _one_file(place, options.allow_pickle)
    tensors = without_prefix(read_tensors(file, allow_pickle=options.allow_pickle), ())
    names = config.get("label_names", raw.get("label_names"))
    classes = config.get("num_classes", raw.get("num_classes")) or _head_size(name, tensors)
    labels = decide_labels(names, classes, options, place.id)
    ref = ModelRef(place.id, name, place.revision, file_sha256([file]), place.scan)
    return _fill_timm(name, tensors, images, labels, ref=ref, raw=raw, model_args=model_args)


def _load_file(path: Path, options: Options) -> Loaded:
    """A bare state dict: nothing is known but what the caller says."""
    if options.architecture is None:
        raise InputError(
            f"architecture: {path.name} holds weights only; pass the timm name of its architecture"
        )
    name = _without_tag(options.architecture)
    images = decide_images({}, options, path.name)
    tensors = without_prefix(read_tensors(path, allow_pickle=options.allow_pickle), ())
    labels = decide_labels(None, _head_size(name, tensors), options, path.name)
    ref = ModelRef(path.name, name, sha256=file_sha256([path]))
    return _fill_timm(name, tensors, images, labels, ref=ref, raw={}, model_args={})


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
    channels = len(images.mean)
    cfg = _timm_cfg(name, raw, images, len(labels))
    args = {**model_args, "num_classes": len(labels), "in_chans": channels}
    if cfg["fixed_input_size"]:
        args["img_size"] = images.size
    fresh = build_timm(name, args)
    kept = {key: value for key, value in model_args.items() if key != "img_size"}
    if _has_cifar_stem(fresh, tensors):
        use_cifar_stem(fresh)
        fill(fresh, tensors, ref.id)
        twin = f"{name}_cifar" if timm.is_model(f"{name}_cifar") else ""
        ref = dataclasses.replace(ref, architecture=twin or f"{name} with a CIFAR stem")
        return Loaded(fresh, ref, labels, images, twin, kept)
    try:
        model = build_timm(name, args, cfg, tensors)
    except InputError as error:
        misfit = describe_misfit(fresh.state_dict(), tensors) or reason_of(error)
        raise InputError(f"weights: {ref.id} does not fit {name}: {misfit}; check architecture") from error
    return Loaded(model, ref, labels, images, name, kept)


def _timm_cfg(name: str, raw: Mapping[str, Any], images: Images, classes: int) -> dict[str, Any]:
    """What timm needs to know of the checkpoint to load it; never where to fetch it from."""
    known = registered_cfg(name)
    cfg = {key: getattr(known, key, None) for key in ("first_conv", "classifier", "fixed_input_size")}
    fields = {entry.name for entry in dataclasses.fields(PretrainedCfg)} - set(SOURCE_FIELDS)
    cfg |= {key: value for key, value in raw.items() if key in fields}
    size = height_and_width(raw.get("input_size")) or images.size
    cfg |= {"architecture": name, "num_classes": classes, "custom_load": False}
    return {**cfg, "input_size": (len(images.mean), *size)}


def _has_cifar_stem(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """A 3x3 first convolution where timm's ResNet has 7x7: by convention stride 1 and no max-pool."""
    if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
        return False
    stem = tensors.get("conv1.weight")
    return stem is not None and tuple(stem.shape[-2:]) == (3, 3) and model.conv1.kernel_size == (7, 7)


def _head_size(name: str, tensors: Mapping[str, Tensor]) -> int | None:
    heads = getattr(registered_cfg(name), "classifier", None) or ""
    weight = tensors.get(f"{heads if isinstance(heads, str) else heads[0]}.weight")
    return None if weight is None else int(weight.shape[0])


# ------------------------------------------------------------------------------------------- transformers


class LogitsOnly(nn.Module):
    """A transformers classifier that takes normalised pixels and gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), normalised, to (N, classes)."""
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


def _load_transformers_folder(place: Place, config: Mapping[str, Any], options: Options) -> Loaded:
    if options.architecture is not None:
        raise InputError(
            f"architecture: {place.id} is a transformers checkpoint and names its own; leave it out"
        )
    if _names_a_kernel(config):
        raise InputError(
            f"model: config.json of {place.id} asks for a kernel from the Hub, which is code and never run;"
            " remove its attn_implementation"
        )
    images = decide_images(
        _processor_says(place, config, options), options, f"the image processor of {place.id}"
    )
    files = _weights_of(place, options.allow_pickle)
    _check_index(place, files)
    for file in files:
        read_tensors(file, allow_pickle=options.allow_pickle)  # refuses NaN and pickles that would run
    model = _transformers_model(place, files[0].suffix == ".safetensors")
    named = model.config.id2label
    labels = decide_labels(
        [named[key] for key in sorted(named)], int(model.config.num_labels), options, place.id
    )
    ref = ModelRef(place.id, type(model).__name__, place.revision, file_sha256(files), place.scan)
    return Loaded(LogitsOnly(model), ref, labels, images)


def _check_index(place: Place, files: Sequence[Path]) -> None:
    """What the index names must be what is looked at and hashed: a path in it could lead anywhere."""
    whole = "model.safetensors" if files[0].suffix == ".safetensors" else "pytorch_model.bin"
    index = place.folder / f"{whole}.index.json"
    if (place.folder / whole).is_file() or not index.is_file():
        return
    other = sorted(set(shards_of(index)) - {file.name for file in files})
    if other:
        raise InputError(
            f"weights: {index.name} of {place.id} names {first_few(other)}, which is not beside it; use an"
            " undamaged checkpoint"
        )


def _names_a_kernel(config: Any) -> bool:
    """Whether attn_implementation, anywhere, is ``org/name``: transformers would fetch and run that."""
    if not isinstance(config, dict):
        return False
    return any(
        _names_a_kernel(value) or (key.endswith("attn_implementation") and "/" in json.dumps(value))
        for key, value in config.items()
    )


def _transformers_model(place: Place, safe: bool) -> Any:
    """The model, from local files alone and with transformers' own code alone."""
    from transformers import AutoModelForImageClassification  # a second of import, for these sources only

    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            place.folder,
            trust_remote_code=False,
            use_safetensors=safe,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(
            f"model: transformers' own code (code in a checkpoint is never run) cannot load {place.id}:"
            f" {reason_of(error)}"
        ) from error
    # transformers fills what does not fit with random numbers and only warns
    wrong = [*map(str, report["missing_keys"]), *(str(entry[0]) for entry in report["mismatched_keys"])]
    if wrong:
        raise InputError(
            f"weights: {place.id} does not fit {type(model).__name__}: missing or of wrong shape"
            f" {first_few(wrong)}; use an undamaged checkpoint"
        )
    return model


def _processor_says(place: Place, config: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The image processor's settings in timm's words; empty where the caller decides everything."""
    if None not in (options.mean, options.std, options.input_size):
        return {}
    alone, nested = place.folder / "preprocessor_config.json", place.folder / "processor_config.json"
    if alone.is_file():
        raw = _json(alone)
    elif nested.is_file():
        raw = _json(nested).get("image_processor") or {}
    else:
        raw = {}
    return read_image_processor(raw, config, f"the image processor of {place.id}")
