"""Where a convolutional classifier looks: Grad-CAM.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017. With the last feature map A (K channels of h x w places) and the logit y_c of class c

    a_k = 1/(h w) sum_ij dy_c / dA_kij                  (equation 1)
    L_c = ReLU( sum_k a_k A_k )                          (equation 2)

Only the layers behind the feature map are differentiated, so that a map costs little more than the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abd_hub.core.errors import InputError
from abd_hub.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """What a classifier answers to images, and where it looked for it."""

    logits: Tensor
    """(N, classes)."""
    classes: Tensor
    """(N,), whose logits the maps explain."""
    maps: Tensor
    """(N, h, w) at the feature map's own size, not negative, unbounded; all zero where nothing speaks for
    the class."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the last feature map passes: what a module takes in or gives, at one of its calls."""

    name: str
    given: bool
    """Whether it is the module's output."""
    call: int


class GradCam:
    """Grad-CAM of one classifier on its last feature map.

    The last feature map is the last tensor (N, K, h, w) with h or w above 1 that a module takes in or gives,
    mostly what goes into the global pooling. Networks that end in tokens, as vision transformers do, have
    none.

    Args:
        classifier: in evaluation mode; convolutional, of timm, of transformers or of one's own.

    Raises:
        InputError: the classifier has no last feature map, or is in training mode.
    """

    def __init__(self, classifier: Classifier) -> None:
        if classifier.training:
            raise InputError("classifier: it is in training mode; call eval() first")
        place = _find(classifier)
        if place is None:
            raise InputError(
                f"classifier: {type(classifier.model).__name__} has no last feature map to look at "
                "(it is not convolutional to the end); use one that is"
            )
        self.classifier = classifier
        self._place = place

    def __call__(self, pixels: Tensor, classes: Tensor | None = None) -> AttentionMaps:
        """Logits and maps of images.

        Args:
            pixels: (N, C, H, W) floating, in [0, 1].
            classes: (N,) whole numbers, what to explain; by default the class that each image is read as.

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
            f"classes: {classes.dtype} of shape {tuple(classes.shape)}; "
            f"pass {count} whole numbers from 0 to {known - 1}"
        )
    return classes.to(device=logits.device, dtype=torch.long)


def _find(classifier: Classifier) -> _Place | None:
    # Transformers over windows keep maps, but channels last: their places are not those of a convolution.
    if getattr(classifier.model, "output_fmt", "NCHW") != "NCHW":
        return None
    found: list[_Place | None] = [None]
    calls: dict[str, int] = {}
    given_before = False

    def note(name: str, value: Any, given: bool) -> None:
        nonlocal given_before
        if not isinstance(value, Tensor):
            return
        if value.ndim == 3:
            found[0] = None  # tokens: whatever map there was is not the last word
        elif value.ndim == 4 and value.shape[2] * value.shape[3] > 1:
            given_before |= given
            if given_before:  # what goes in before anything came out is the image
                found[0] = _Place(name=name, given=given, call=calls[name])

    def listen(name: str) -> tuple[Any, Any]:
        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, -1) + 1
            if inputs:
                note(name, inputs[0], False)

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            note(name, output, True)

        return before, after

    handles = []
    for name, module in classifier.model.named_modules():
        if name:
            before, after = listen(name)
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    spec = classifier.spec
    try:
        with torch.no_grad():
            classifier(classifier.mean.new_zeros(1, spec.channels, spec.height, spec.width))
    finally:
        for handle in handles:
            handle.remove()
    return found[0]


@contextmanager
def _kept(model: nn.Module, place: _Place) -> Iterator[list[Tensor]]:
    """The feature map of the next run, as a tensor from which the graph of gradients begins."""
    features: list[Tensor] = []
    calls = 0
    # Another thread may be asking the same classifier.
    own = threading.get_ident()

    def start(value: Tensor) -> Tensor:
        # A copy, because layers that work in place must not write into a leaf.
        features.append(value.detach().requires_grad_().clone())
        return features[0]

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal calls
        if threading.get_ident() != own:
            return None
        calls += 1
        return (start(inputs[0]), *inputs[1:]) if not place.given and calls - 1 == place.call else None

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        mine = threading.get_ident() == own and calls - 1 == place.call
        return start(output) if place.given and mine else None

    module = model.get_submodule(place.name)
    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
