"""Shuffled copies of a network that share everything up to the first shuffled layer.

Copy k has the input channels of the last L layers permuted: W_k[:, i] = W[:, p_k(i)]. As
W[:, p] * x = W * x[p^-1], no weight is copied. Instead, hooks reorder the *inputs* of the layers, and the
K copies run as one batch of K*N rows from the point where they differ.

The example is WRN-16-2 with K = 3 and its last five convolutions. A forward pass and the gradient to the
images cost about 340 MMAC. Three separate copies, with their weights' gradients, would cost 910.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from abd_hub.core import seeding
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec

PROBE_ROWS = 3
"""Images of the probe. The number is prime, so that no other dimension of an input is taken for the batch."""


@dataclass(frozen=True)
class ShuffledLayer:
    """Describes one layer whose input channels are permuted."""

    name: str
    module: nn.Module
    channels: int
    dim: int
    """Holds the dimension of the channels in the layer's input: 1 for convolutions, -1 for linear layers."""
    rows_per_image: int
    """Holds the number of rows of the layer's input per image, which is above 1 for windowed attention."""


class ShuffledTeacher:
    """Runs K copies of a frozen network with permuted input channels in its last layers.

    Layers are selected by type, in the order in which they run. These are the last ``layers`` convolutions,
    grouped and depthwise ones included. Where linear layers prevail, as in a transformer, these are the last
    linear layers except the one that gives the logits.

    Args:
        model: frozen, in eval mode; pixels (N, C, H, W) to logits (N, classes).
        spec: the model's input and labels.
        layers: L, how many layers to shuffle.
        copies: K, how many copies to run.

    Raises:
        InputError: no layer can be shuffled, or the model is in train mode.
    """

    def __init__(self, model: nn.Module, spec: DataSpec, layers: int, copies: int) -> None:
        if any(module.training for module in model.modules()):
            raise InputError("teacher: is in train mode, in which a pass would change it; call eval() first")
        self.model = model
        self.copies = copies
        probe = _probe(model, spec)
        self.layers = _choose_layers(model, probe, layers)
        self.split = _find_split(self, probe)
        """Names the module before which the batch is repeated; None where the shuffled layers repeat it."""

    def permutations(self, seed: int, draw: int) -> list[Tensor]:
        """Returns the ``draw``-th set of permutations: for each layer (K, channels), with p_k as row k."""
        draws = seeding.generator(seed, "shuffle", draw)
        sets = []
        for layer in self.layers:
            rows = [torch.randperm(layer.channels, generator=draws) for _ in range(self.copies)]
            sets.append(torch.stack(rows))
        return sets

    def logits(self, pixels: Tensor, permutations: list[Tensor]) -> Tensor:
        """Returns the logits of every copy, (K, N, classes), in one pass.

        Args:
            pixels: (N, C, H, W).
            permutations: one (K, channels) a layer, from ``permutations``.
        """
        with self._hooked(pixels.shape[0], permutations, self.split):
            stacked: Tensor = self.model(pixels)
        return stacked.view(permutations[0].shape[0], pixels.shape[0], -1)

    def separate_logits(self, pixels: Tensor, permutations: list[Tensor]) -> Tensor:
        """Returns the same as ``logits`` from one whole pass a copy; this definition checks the fast way."""
        copies = range(permutations[0].shape[0])
        return torch.cat([self._copy_logits(pixels, permutations, copy) for copy in copies])

    def _copy_logits(self, pixels: Tensor, permutations: list[Tensor], copy: int) -> Tensor:
        own = [rows[copy : copy + 1] for rows in permutations]
        with self._hooked(pixels.shape[0], own, None):
            logits: Tensor = self.model(pixels)
        return logits.unsqueeze(0)

    @contextmanager
    def _hooked(self, rows: int, permutations: list[Tensor], split: nn.Module | None) -> Iterator[None]:
        copies = permutations[0].shape[0]
        with ExitStack() as stack:
            if split is not None:
                repeat = _repeat_hook(rows, copies)
                stack.enter_context(_handle(split.register_forward_pre_hook(repeat, with_kwargs=True)))

            for layer, permutation in zip(self.layers, permutations, strict=True):
                hook = _shuffle_hook(layer, rows, permutation.argsort(dim=1))
                stack.enter_context(_handle(layer.module.register_forward_pre_hook(hook)))

            yield


@contextmanager
def _handle(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _shuffle_hook(layer: ShuffledLayer, rows: int, order: Tensor) -> Callable[..., tuple[Any, ...]]:
    """Returns a pre-hook that gives copy k its input in the order ``order[k]``; a shared input becomes K."""
    copies = order.shape[0]

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        features = args[0]
        shared = features.shape[0] == rows * layer.rows_per_image
        parts = [features] * copies if shared else features.chunk(copies)
        index = order.to(features.device)
        shuffled = [part.index_select(layer.dim, index[k]) for k, part in enumerate(parts)]
        return (torch.cat(shuffled), *args[1:])

    return hook


def _repeat_hook(rows: int, copies: int) -> Callable[..., tuple[Any, Any]]:
    """Returns a pre-hook that repeats every argument with a batch in front K times, copy after copy."""

    def repeat(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] % rows:
            return value
        return value.repeat(copies, *[1] * (value.ndim - 1))

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        repeated = tuple(repeat(value) for value in args)
        return repeated, {key: repeat(value) for key, value in kwargs.items()}

    return hook


def _probe(model: nn.Module, spec: DataSpec) -> Tensor:
    draws = seeding.generator(0, "shuffle probe")
    noise = torch.rand(PROBE_ROWS, spec.channels, spec.height, spec.width, generator=draws)
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), noise)
    return noise.to(like.device, like.dtype)


def _choose_layers(model: nn.Module, probe: Tensor, count: int) -> list[ShuffledLayer]:
    ran, classes = _layers_in_order(model, probe)
    convolutions = [layer for layer in ran if isinstance(layer.module, _ConvNd)]
    linears = [layer for layer in ran if isinstance(layer.module, nn.Linear)]
    if linears and _gives_logits(linears[-1].module, classes):
        linears.pop()

    prevailing = convolutions if len(convolutions) >= min(count, len(linears)) else linears
    # A layer with one input channel has nothing to shuffle.
    chosen = [layer for layer in prevailing if layer.channels > 1][-count:]
    if not chosen:
        raise InputError(
            "teacher: has no convolution and no hidden linear layer that shuffling_vaccine could shuffle; "
            "leave shuffling_vaccine out of defenses"
        )
    return chosen


def _gives_logits(module: nn.Module, classes: int) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == classes


def _layers_in_order(model: nn.Module, probe: Tensor) -> tuple[list[ShuffledLayer], int]:
    """Returns convolutions and linear layers in the order of their last run, and the number of logits."""
    ran: dict[str, ShuffledLayer] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            dim = 1 if isinstance(module, _ConvNd) else -1
            rows, channels = args[0].shape[0], args[0].shape[dim]
            ran.pop(name, None)
            ran[name] = ShuffledLayer(name, module, channels, dim, max(1, rows // PROBE_ROWS))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd | nn.Linear):
                stack.enter_context(_handle(module.register_forward_pre_hook(note(name))))
        logits = model(probe)

    return list(ran.values()), logits.shape[-1]


def _find_split(shuffled: ShuffledTeacher, probe: Tensor) -> nn.Module | None:
    """Returns the latest point from which the copies can run together with the separate copies' logits.

    Candidates are the shuffled layers themselves, then the modules around the first of them, from the
    inside out. A skip connection around a candidate makes it fail, visibly in shape or in value. Then the
    next one is tried; the whole model always works.
    """
    permutations = shuffled.permutations(0, 0)
    path = shuffled.layers[0].name.split(".")
    around = [".".join(path[:depth]) for depth in range(len(path) - 1, -1, -1)]
    candidates: list[nn.Module | None] = [None]
    candidates += [shuffled.model.get_submodule(name) for name in around]

    with torch.no_grad():
        expected = shuffled.separate_logits(probe, permutations)
        if not expected.isfinite().all():
            raise InputError(
                "teacher: its shuffled copies give logits that are not finite; check its weights and "
                "normalization"
            )
        for candidate in candidates[:-1]:
            if _same_from(shuffled, candidate, probe, permutations, expected):
                return candidate
    return candidates[-1]


def _same_from(
    shuffled: ShuffledTeacher,
    split: nn.Module | None,
    probe: Tensor,
    permutations: list[Tensor],
    expected: Tensor,
) -> bool:
    try:
        with shuffled._hooked(probe.shape[0], permutations, split):
            logits = shuffled.model(probe).view(expected.shape)
    except (RuntimeError, ValueError):  # shapes of a shared skip connection do not fit: not a split point
        return False

    scale = max(float(expected.abs().max()), 1e-6)
    return torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * scale)
