"""This module reads the configuration of timm networks that transformers has saved.

transformers calls them ``timm_wrapper`` and puts ``timm_model.`` before the name of every weight. The network
and its preprocessing are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abd_hub.core.errors import InputError, visible_line
from abd_hub.hub.pull import Place
from abd_hub.models.checkpoint_files import check_problem, read_json

MODEL_TYPE = "timm_wrapper"
_PROCESSOR = "preprocessor_config.json"


def is_timm_wrapper(config: Mapping[str, Any]) -> bool:
    """Returns whether a config.json describes a timm network in the form of transformers."""
    return config.get("model_type") == MODEL_TYPE


def as_timm(place: Place, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the same configuration in timm's form.

    Args:
        place: the folder; its image processor's file may hold timm's pretrained_cfg.
        config: the content of config.json.

    Raises:
        InputError: the network is no classifier of one label an image, or has no architecture of timm.
    """
    check_problem(config.get("problem_type"), place)
    for name in _list(config.get("architectures")):
        if "ForImageClassification" not in str(name):
            shown = visible_line(str(name), 60)
            raise InputError(
                f"weights: {place.id} has no classification head (it is a {shown}); use a checkpoint that "
                "was trained to classify"
            )
    if not isinstance(config.get("architecture"), str):
        raise InputError(
            f"model: config.json of {place.id} names no architecture of timm; write it anew with transformers"
        )

    kept = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    if not kept.get("label_names") and isinstance(config.get("id2label"), dict):
        kept["label_names"] = config["id2label"]
        kept.setdefault("num_classes", len(config["id2label"]))
    if not kept.get("pretrained_cfg"):
        kept["pretrained_cfg"] = _processor_cfg(place)
    return kept


def _processor_cfg(place: Place) -> Any:
    file = place.folder / _PROCESSOR
    return (read_json(file).get("pretrained_cfg") if file.is_file() else None) or {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
