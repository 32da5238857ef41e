"""What a classifier is shown: whole images with or without a trigger, as pixels of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from abd_hub.core.records import DataSpec
from abd_hub.data.mixed import MixedImages
from abd_hub.evaluation.attacks import Attack
from abd_hub.models.view import in_channels


class Evaluated(Protocol):
    """Describes a classifier to evaluate: a module from pixels to logits with its labels in ``spec``.

    Where it has a method ``prepare``, as ``Classifier`` does, this makes the network's pixels from whole
    images.
    """

    spec: DataSpec

    def eval(self) -> Any:
        """Does the same as in ``nn.Module``."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Does the same as in ``nn.Module``."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Does the same as in ``nn.Module``."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Maps (N, C, H, W) float in [0,1] to (N, classes) logits."""
        ...


def shown_pixels(
    classifier: Evaluated,
    images: Tensor | MixedImages,
    attack: Attack | None = None,
    device: torch.device | str | None = None,
) -> list[tuple[Tensor | None, Tensor]]:
    """Returns what a classifier is shown of images, with the trigger of an attack.

    Args:
        classifier: whose ``prepare`` resizes and crops whole images; one without it gets them as they are.
        images: (n, C, H, W) uint8 or ``MixedImages``.
        attack: puts its trigger on the images, or on the pixels of the input; by default there is none.
        device: of the pixels; by default the images'.

    Returns:
        Places, (m,), and floating pixels, (m, C, H, W). Places are None for all images in their order; only a
        classifier without ``prepare`` gets several parts, one for each size.
    """
    place = torch.device(device) if device is not None else images.device
    prepare: Callable[[Tensor], Tensor] | None = getattr(classifier, "prepare", None)
    parts = [(index, _shown(classifier.spec, some, attack, prepare)) for index, some in _parts(images, place)]
    if prepare is None or len(parts) == 1 or isinstance(images, Tensor):
        return parts

    first = parts[0][1]
    whole = first.new_empty(len(images), *first.shape[1:])
    for index, pixels in parts:
        whole[index] = pixels
    return [(None, whole)]


def shown_at_once(
    classifier: Any,
    images: Tensor | MixedImages,
    attack: Attack | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Returns what a ``Classifier`` is shown of a few images, (n, C, H, W); see ``shown_pixels``."""
    (part,) = shown_pixels(classifier, images, attack, device)
    return part[1]


def _parts(images: Tensor | MixedImages, device: torch.device) -> Iterator[tuple[Tensor | None, Tensor]]:
    if isinstance(images, Tensor):
        yield None, images.to(device, non_blocking=True).float().div_(255)
        return
    for index, some in images.groups():
        yield index.to(device), some.to(device).float().div_(255)


def _shown(
    spec: DataSpec, pixels: Tensor, attack: Attack | None, prepare: Callable[[Tensor], Tensor] | None
) -> Tensor:
    if attack is not None and attack.on == "image":
        pixels = attack.trigger(pixels)
    pixels = in_channels(pixels, spec.channels) if prepare is None else prepare(pixels)
    if attack is not None and attack.on == "input":
        pixels = attack.trigger(pixels)
    return pixels
