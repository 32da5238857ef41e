"""An attack combines a trigger with its target, and is checked against data and classifier before any
work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec
from abd_hub.data.mixed import MixedImages


@dataclass(frozen=True)
class Attack:
    """Combines a trigger with the label that it should cause."""

    name: str
    """Names the trigger in the report."""
    target: int
    """Holds the label that the triggered images should get."""
    trigger: Trigger
    """Puts the trigger on images."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Holds the trigger's options for the report, in JSON types only."""
    on: Literal["image", "input"] = "image"
    """Says where the trigger goes: on the image, as an attacker changes a file, or on the network's input,
    after the image is resized and cropped."""


def check_inputs(
    spec: DataSpec, images: Tensor | MixedImages, labels: Tensor, attacks: Sequence[Attack] = ()
) -> None:
    """Makes the checks of ``evaluate`` in advance, for callers that have other work to do first.

    Args:
        spec: spec of the classifier.
        images: all images, (n, C, H, W) uint8 or ``MixedImages``.
        labels: their labels, (n,) integers.
        attacks: triggers with their targets.

    Raises:
        InputError: the same as in ``evaluate`` before any work.
    """
    _check_data(spec, images, labels)
    _check_attacks(spec, images, labels, attacks)


def _check_data(spec: DataSpec, images: Tensor | MixedImages, labels: Tensor) -> None:
    if isinstance(images, Tensor) and (images.ndim != 4 or images.dtype != torch.uint8):
        raise InputError(f"images must be (n, C, H, W) uint8, not {tuple(images.shape)} {images.dtype}")
    if len(images) == 0:
        raise InputError("images: there are no images to evaluate on; use a split that is not empty")
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise InputError(f"labels must be {len(images)} integers, not {tuple(labels.shape)} {labels.dtype}")
    channels = images.shape[1] if isinstance(images, Tensor) else images.channels
    if channels != spec.channels and {channels, spec.channels} != {1, 3}:
        raise InputError(f"images have {channels} channels but the classifier takes {spec.channels}")

    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise InputError(
            f"labels run from {low} to {high} but the classifier has {spec.num_classes} classes; "
            "use data and a classifier with the same labels"
        )


def _check_attacks(
    spec: DataSpec, images: Tensor | MixedImages, labels: Tensor, attacks: Sequence[Attack]
) -> None:
    for attack in attacks:
        if not 0 <= attack.target < spec.num_classes:
            raise InputError(
                f"target {attack.target} of trigger {attack.name} is out of range; "
                f"use 0..{spec.num_classes - 1}"
            )
        if bool((labels == attack.target).all()):
            raise InputError(
                f"no image has a label other than target {attack.target} of {attack.name}; use another target"
            )

    for places in by_trigger(attacks):
        attack = attacks[places[0]]
        for probe in _probes(spec, images, attack):
            _check_trigger(attack, probe)


def _probes(spec: DataSpec, images: Tensor | MixedImages, attack: Attack) -> list[Tensor]:
    """Returns what the trigger must fit: an input, or an image, or the lowest and the narrowest one."""
    if attack.on == "input":
        return [torch.zeros(1, spec.channels, spec.height, spec.width, device=images.device)]
    if isinstance(images, Tensor):
        return [images[:1].float() / 255]
    sizes = images.sizes
    extremes = {min(range(len(sizes)), key=lambda place: sizes[place][side]) for side in (0, 1)}
    return [one[None].float() / 255 for one in images[sorted(extremes)]]


def _check_trigger(attack: Attack, probe: Tensor) -> None:
    stamped = attack.trigger(probe)
    if stamped.shape != probe.shape or stamped.dtype != probe.dtype:
        raise InputError(
            f"trigger {attack.name} turns {tuple(probe.shape)} {probe.dtype} "
            f"into {tuple(stamped.shape)} {stamped.dtype}; it must keep both"
        )


def by_trigger(attacks: Sequence[Attack]) -> list[list[int]]:
    """Returns the places of the attacks in groups of equal triggers at the same place, by their first
    attacks."""
    groups: dict[Any, list[int]] = {}
    for place, attack in enumerate(attacks):
        groups.setdefault((attack.on, _identity(attack.trigger)), []).append(place)
    return list(groups.values())


def _identity(trigger: Trigger) -> Any:
    """Returns a key that equal triggers share; frozen dataclasses with equal options are equal."""
    try:
        hash(trigger)
    except TypeError:  # without a hash, a trigger equals only itself
        return id(trigger)
    return trigger
