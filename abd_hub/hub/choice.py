"""This module chooses the files of a repository or a folder that make up a classifier.

Repositories of trainers hold optimizers, schedulers and earlier checkpoints beside the weights. No such file
is opened.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from abd_hub.core.errors import visible_line
from abd_hub.core.pickles import is_pickle

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
INDEX = "model.safetensors.index.json"
SAFE_WEIGHTS = (("model.safetensors",), ("model-*-of-*.safetensors", INDEX), ("model*.safetensors",))
"""Lists groups of weights files; a repository is loaded from the first group that it has."""
PICKLED_WEIGHTS = (
    ("pytorch_model.bin",),
    ("pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
    ("pytorch_model.pth",),
    ("model.pth",),
    ("pytorch_model*.bin",),
)
"""Lists the names under which transformers and timm write weights into pickles, in groups as above."""
_TRAINING = (
    "optimizer*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states*",
    "training_args*",
    "trainer_state*",
    "adapter_model*",
)
"""Lists the names of files that trainers write beside the weights, and of weights that are only a change."""
_FOREIGN = {
    ".onnx": "ONNX",
    ".h5": "Keras",
    ".keras": "Keras",
    ".tflite": "TensorFlow Lite",
    ".msgpack": "Flax",
    ".gguf": "GGUF",
    ".mlmodel": "Core ML",
    ".pb": "TensorFlow",
}
"""Names the formats of other libraries by the endings of their files."""


def choose_files(names: Collection[str], allow_pickle: bool) -> list[str]:
    """Returns the needed files of a repository, the weights last; a file in a subfolder is never needed."""
    plain = sorted(name for name in names if "/" not in name)
    texts = [name for name in CONFIGS if name in plain]
    weights = choose_weights(plain, allow_pickle)
    if len(weights) > 1 and not _are_parts(weights):
        weights = []
    return texts + sorted(weights, key=lambda name: not name.endswith(".json"))


def choose_weights(names: Collection[str], allow_pickle: bool) -> list[str]:
    """Returns the weights files among the names in a folder, with the index of parts.

    Several files that are no parts of one checkpoint are several checkpoints, and nothing says which one
    counts.
    """
    groups = [*SAFE_WEIGHTS, ("*.safetensors",)]
    if allow_pickle:
        groups += PICKLED_WEIGHTS
    own = sorted(name for name in names if not _matches(name.lower(), _TRAINING))
    for patterns in groups:
        found = [name for name in own if _matches(name, patterns)]
        if any(not name.endswith(".json") for name in found):
            return found
    return [name for name in own if is_pickle(name)] if allow_pickle else []


def why_no_weights(names: Collection[str], place: str, allow_pickle: bool) -> str:
    """Explains why a place has no weights that can be read, as one line with a remedy.

    Args:
        names: paths of all files of the repository or folder.
        place: its name in the message.
        allow_pickle: whether pickles were permitted.
    """
    plain = sorted(name for name in names if "/" not in name)
    several = choose_weights(plain, allow_pickle)
    if several:
        return (
            f"{place} has several weights files ({_few(several)}); put one of them with config.json into a "
            "folder of its own, and use that folder"
        )
    if choose_weights(plain, allow_pickle=True):
        return f"{place} has no safetensors file; pass allow_pickle=true if its pickle may be read"

    if "adapter_config.json" in plain:
        return (
            f"{place} holds an adapter (adapter_config.json), which only changes another model; merge it "
            "into that model with merge_and_unload of peft, save the result, and use its folder"
        )
    below = [name for name in names if "/" in name and choose_weights([_last(name)], allow_pickle)]
    if below:
        folders = sorted({name.rpartition("/")[0] for name in below})
        return (
            f"{place} has weights in subfolders only ({_few(folders)}); use a copy of one of them on this "
            "machine as local-dir:FOLDER"
        )

    foreign = sorted({kind for name in names for end, kind in _FOREIGN.items() if name.lower().endswith(end)})
    if foreign:
        return (
            f"{place} has weights for {' and '.join(foreign)} only; use the PyTorch checkpoint from which "
            "they were made, or convert them to model.safetensors"
        )
    return f"{place} has no weights file; put model.safetensors there"


def _are_parts(names: Sequence[str]) -> bool:
    return any(name.endswith(".json") or re.search(r"-\d+-of-\d+\.", name) for name in names)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(visible_line(name, 80) for name in names[:3]) + more


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
