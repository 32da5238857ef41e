"""This module reads checkpoints of transformers, from local files alone and with transformers' code alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.records import ModelRef
from abd_hub.hub.pull import Place, shards_of
from abd_hub.models.bounds import check_whole_numbers, no_larger_than
from abd_hub.models.checkpoint_files import Loaded, check_problem, read_json, weights_of
from abd_hub.models.image_processors import read_image_processor
from abd_hub.models.preprocessing import Options, Processed, decide_images, decide_labels
from abd_hub.models.weights import file_sha256, first_few, read_tensors


class LogitsOnly(nn.Module):
    """Wraps a transformers classifier so that it takes normalized pixels and returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits, (N, classes), of normalized images, (N, C, H, W)."""
        logits: Tensor = self.model(pixel_values=x).logits
        return logits


def load_transformers_folder(place: Place, config: Mapping[str, Any], options: Options) -> Loaded:
    """Reads a folder whose config.json is transformers'.

    Raises:
        InputError: the configuration, an option or the weights are wrong, or reading them needs foreign code.
    """
    if options.architecture is not None:
        raise InputError(
            f"architecture: {place.id} is a transformers checkpoint, which names its own; leave it out"
        )
    if options.model_args:
        raise InputError(
            f"model_args: {place.id} is a transformers checkpoint, which has its own; leave it out"
        )
    _check_code(place, config)

    processor = f"the image processor of {place.id}"
    processed = _processed(place, config, options, processor)
    images = decide_images(processed.stated, options, processor, processed=processed)

    files = weights_of(place, options.allow_pickle)
    _check_index(place, files)
    sizes: list[int] = []
    for file in files:
        # This refuses NaN, and pickles that would run.
        tensors = read_tensors(file, allow_pickle=options.allow_pickle)
        sizes += [tensor.numel() for tensor in tensors.values()]
    check_whole_numbers(config, f"model: config.json of {place.id}")
    with no_larger_than(sizes):
        model = _transformers_model(place, files[0].suffix == ".safetensors")

    check_problem(getattr(model.config, "problem_type", None), place)
    names = model.config.id2label
    in_order = [names[key] for key in sorted(names)]
    labels = decide_labels(in_order, int(model.config.num_labels), options, place.id)
    ref = ModelRef(place.id, type(model).__name__, place.revision, file_sha256(files), place.scan)
    return Loaded(LogitsOnly(model), ref, labels, images)


def _check_code(place: Place, config: Mapping[str, Any]) -> None:
    """Refuses a configuration that needs code from elsewhere."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if kind is not None and str(kind) not in CONFIG_MAPPING_NAMES:
        raise InputError(
            f"model: transformers' own code (code in a checkpoint is never run) cannot load {place.id}: it"
            f" has no model_type {str(kind)[:40]!r}"
        )
    if _names_a_kernel(config):
        raise InputError(
            f"model: config.json of {place.id} names a kernel of the Hub, which is code and never run;"
            " remove its attn_implementation"
        )


def _check_index(place: Place, files: Sequence[Path]) -> None:
    """Refuses an index that names other files than those checked and hashed; a path could lead anywhere."""
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
    """Returns whether any attn_implementation is ``org/name``, which transformers would fetch and run."""
    waiting = [(False, config)]
    while waiting:
        named, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(named or key.endswith("attn_implementation"), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(named, inner) for inner in value]
        elif named and isinstance(value, str) and "/" in value:
            return True
    return False


def _transformers_model(place: Place, safe: bool) -> Any:
    """Returns the model, from local files alone and with transformers' code alone."""
    from transformers import AutoModelForImageClassification  # a second of import, for these sources only

    try:
        with _silent():
            model, report = AutoModelForImageClassification.from_pretrained(
                place.folder,
                trust_remote_code=False,
                use_safetensors=safe,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they come back as part of the report, and are refused
            )
    except Exception as error:
        raise InputError(
            f"model: transformers' own code (code in a checkpoint is never run) cannot load {place.id}:"
            f" {reason_of(error)}"
        ) from error

    # transformers fills tensors that do not fit with random numbers and only warns.
    wrong = [*map(str, report["missing_keys"]), *(str(entry[0]) for entry in report["mismatched_keys"])]
    body = f"{model.base_model_prefix}."
    head = {name for name, _ in model.named_parameters() if not name.startswith(body)}
    if wrong and set(wrong) <= head:
        raise InputError(
            f"weights: {place.id} has no classification head (missing or misshapen: {first_few(wrong)}); "
            "use a checkpoint that was trained to classify"
        )
    if wrong:
        raise InputError(
            f"weights: {place.id} does not fit {type(model).__name__}: missing or of wrong shape"
            f" {first_few(wrong)}; use an undamaged checkpoint"
        )
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps transformers' report and bars from the terminal; the caller says in one line what is wrong."""
    from transformers.utils import logging as words

    before, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity(words.CRITICAL)
    words.disable_progress_bar()
    try:
        yield
    finally:
        words.set_verbosity(before)
        if bars:
            words.enable_progress_bar()


def _processed(place: Place, config: Mapping[str, Any], options: Options, processor: str) -> Processed:
    """Returns what the image processor does; nothing where the caller decides everything in its place."""
    everything = (
        options.mean,
        options.std,
        options.input_size,
        options.interpolation,
        options.crop_pct,
        options.crop_mode,
    )
    try:
        return read_image_processor(_processor_file(place, processor), config, processor)
    except InputError:
        if None in everything:
            raise
        return Processed({})


def _processor_file(place: Place, processor: str) -> dict[str, Any]:
    """Returns the settings of the file that transformers would read; empty where there is none."""
    nested, alone = place.folder / "processor_config.json", place.folder / "preprocessor_config.json"
    whole = read_json(nested) if nested.is_file() else {}
    if "image_processor" in whole:
        raw = whole["image_processor"]
        if not isinstance(raw, dict):
            raise InputError(
                f"model: image_processor of {processor} is no mapping; write its configuration anew"
            )
        return raw
    return read_json(alone) if alone.is_file() else {}
