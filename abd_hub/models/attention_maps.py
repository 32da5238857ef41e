"""Grad-CAM shows which places of an image decide the answer of a convolutional classifier.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017. The last feature map A has K channels of h x w places, and y_c is the logit of class c:

    a_k = 1/(h w) sum_ij dy_c / dA_kij                  (equation 1)
    L_c = ReLU( sum_k a_k A_k )                          (equation 2)

Only the layers behind the feature map are differentiated. So a map costs little more than the logits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from abd_hub.core.errors import InputError
from abd_hub.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """Holds the logits of images and the maps that explain them."""

    logits: Tensor
    """Holds the logits, (N, classes)."""
    classes: Tensor
    """Holds the explained class of each image, (N,)."""
    maps: Tensor
    """Holds the maps, (N, h, w) with the feature map's h and w.

    No value is negative, and there is no upper bound. A map is zero where nothing supports the class.
    """


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Names the input or output of one call of a module."""

    name: str
    is_output: bool
    call: int


class GradCam:
    """Computes Grad-CAM of one classifier on its last feature map.

    The last feature map is the last tensor (N, K, h, w) with h or w above 1 that enters or leaves a module.
    Mostly this tensor enters the global pooling. Networks that end in tokens, as vision transformers do, have
    no last feature map.

    Args:
        classifier: a convolutional network of any origin, in evaluation mode.

    Raises:
        InputError: the classifier has no last feature map, or is in training mode.
    """

    def __init__(self, classifier: Classifier) -> None:
        if classifier.training:
            raise InputError("classifier: is in training mode; call eval() first")
        place = _find_last_map(classifier)
        if place is None:
            raise InputError(
                f"classifier: {type(classifier.model).__name__} has no last feature map; "
                "use a network that is convolutional to its end"
            )
        self.classifier = classifier
        self._place = place

    def __call__(self, pixels: Tensor, classes: Tensor | None = None) -> AttentionMaps:
        """Returns the logits and the maps of images.

        Args:
            pixels: (N, C, H, W) floating, in [0, 1].
            classes: (N,) whole numbers, the classes to explain; by default the predicted class of each image.

        Raises:
            InputError: pixels or classes do not suit the classifier.
        """
        with torch.inference_mode(False), torch.enable_grad():
            with _kept(self.classifier.model, self._place) as features:
                logits = self.classifier(pixels.detach().clone())
            chosen = logits.argmax(1) if classes is None else _checked(classes, logits)

            score = logits.gather(1, chosen[:, None]).sum()
            (slopes,) = torch.autograd.grad(score, features)
            weights = slopes.mean((2, 3), keepdim=True)
            maps = (weights * features[0]).sum(1).relu()

        return AttentionMaps(logits=logits.detach(), classes=chosen, maps=maps.detach())


def _checked(classes: Tensor, logits: Tensor) -> Tensor:
    count, known = logits.shape
    whole = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    if tuple(classes.shape) != (count,) or not whole or not bool(((classes >= 0) & (classes < known)).all()):
        raise InputError(
            f"classes: are {classes.dtype} of shape {tuple(classes.shape)}; "
            f"pass {count} whole numbers from 0 to {known - 1}"
        )
    return classes.to(device=logits.device, dtype=torch.long)


def _find_last_map(classifier: Classifier) -> _Place | None:
    # Transformers over windows keep maps, but with channels last, so their places are no pixels' places.
    if getattr(classifier.model, "output_fmt", "NCHW") != "NCHW":
        return None

    search = _LastMapSearch()
    handles = []
    for name, module in classifier.model.named_modules():
        if name:
            handles += search.watch(name, module)

    spec = classifier.spec
    try:
        with torch.no_grad():
            classifier(classifier.mean.new_zeros(1, spec.channels, spec.height, spec.width))
    finally:
        for handle in handles:
            handle.remove()
    return search.place


class _LastMapSearch:
    """Follows one forward pass and remembers the last place of a feature map."""

    def __init__(self) -> None:
        self.place: _Place | None = None
        self._calls: dict[str, int] = {}
        self._any_output = False

    def watch(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Puts hooks on a module; the caller removes them."""

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._calls[name] = self._calls.get(name, -1) + 1
            if inputs:
                self._note(name, inputs[0], is_output=False)

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._note(name, output, is_output=True)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _note(self, name: str, value: Any, *, is_output: bool) -> None:
        if not isinstance(value, Tensor):
            return
        if value.ndim == 3:
            self.place = None  # tokens follow, so an earlier map does not decide the answer
        elif value.ndim == 4 and value.shape[2] * value.shape[3] > 1:
            self._any_output |= is_output
            if self._any_output:  # an input before the first output is the image
                self.place = _Place(name=name, is_output=is_output, call=self._calls[name])


@contextmanager
def _kept(model: nn.Module, place: _Place) -> Iterator[list[Tensor]]:
    """Yields a list that receives the feature map of the next run; the graph of gradients begins there."""
    features: list[Tensor] = []
    calls = 0
    own = threading.get_ident()  # another thread may use the same classifier

    def start(value: Tensor) -> Tensor:
        # Layers that work in place must not write into a leaf, so they get a copy.
        features.append(value.detach().requires_grad_().clone())
        return features[0]

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal calls
        if threading.get_ident() != own:
            return None
        calls += 1
        return (start(inputs[0]), *inputs[1:]) if not place.is_output and calls - 1 == place.call else None

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        mine = threading.get_ident() == own and calls - 1 == place.call
        return start(output) if place.is_output and mine else None

    module = model.get_submodule(place.name)
    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
