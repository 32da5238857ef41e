"""Uses BatchNorm statistics as a prior for images (DeepInversion, CVPR 2020, arXiv 1912.08795, eq. 4).

A teacher's BatchNorm layers store the mean and the variance of their inputs in training. A batch of images
resembles the training data where its own statistics are close to the stored ones:

    R(x) = sum over BatchNorm layers of |mean(x) - running mean|_2 + |var(x) - running var|_2.

The variance is biased and taken over batch, height and width, with the rows of all processes together.

Fast (AAAI 2022, arXiv 2112.06253) replaces the batch's own statistics by a moving average,
m = (1 - momentum) mean(x) + momentum * average. CMI (IJCAI 2021, arXiv 2105.08584) describes each image by
the inputs of the same layers for this image alone, averaged over height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from abd_hub.core.contracts import Teacher
from abd_hub.core.errors import InputError
from abd_hub.learning import distributed


class BatchNormStatistics:
    """Records the inputs of a teacher's BatchNorm layers on request.

    Args:
        teacher: a frozen module.
        method: name of the method, with which the error begins.
        momentum: of the moving average over batches, in [0, 1); 0 for the batch's own statistics.

    Raises:
        InputError: no BatchNorm layer that runs has running statistics.
    """

    def __init__(self, teacher: Teacher, method: str, momentum: float = 0.0) -> None:
        assert isinstance(teacher, nn.Module), "every teacher is a module"
        # The order is of registration. A teacher with shortcuts may run its layers in another order.
        known = [
            layer
            for layer in teacher.modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        ran = _that_run(teacher, known) if known else set()
        self.layers = [layer for layer in known if layer in ran]
        if not self.layers:
            raise InputError(
                f"{method}: it matches the statistics of BatchNorm layers, and the teacher has none; "
                "use zskt, dfad or ood, which need no such layer"
            )

        self.momentum = momentum
        self.averages: list[Tensor] = []
        """Holds the moving mean and variance of each layer in turn; empty before the first ``remember``."""
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}
        """Maps the place in ``layers`` to mean and variance."""
        self._image_means: dict[int, Tensor] = {}
        """Maps the place in ``layers`` to the means of each image."""

    @property
    def width(self) -> int:
        """Returns the number of channels of all layers together, the length of an embedding."""
        return sum(layer.num_features for layer in self.layers)

    @contextmanager
    def recording(self, images_only: bool = False) -> Iterator[None]:
        """Records the statistics of the batch in one pass through the teacher inside the block.

        Args:
            images_only: record only the embeddings, without the statistics that ``loss`` needs.
        """
        self._seen, self._image_means = {}, {}
        note = self._note_images if images_only else self._note

        handles = [
            layer.register_forward_pre_hook(partial(note, place)) for place, layer in enumerate(self.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._seen = self._of_all_rows(self._seen)

    def _of_all_rows(self, seen: dict[int, tuple[Tensor, Tensor]]) -> dict[int, tuple[Tensor, Tensor]]:
        """Turns the means of x - running mean and of its square into mean and variance of each layer.

        The processes exchange once for all layers, because an exchange may take longer than a layer.
        """
        if not seen:
            return {}

        sizes = [mean.numel() for pair in seen.values() for mean in pair]
        whole = distributed.mean(torch.cat([mean for pair in seen.values() for mean in pair]))
        means = iter(torch.split(whole, sizes))

        statistics = {}
        for place, shift, square in zip(seen, means, means, strict=True):
            center = self.layers[place].running_mean
            assert center is not None, "only layers with running statistics are recorded"
            statistics[place] = (shift + center, square - shift.square())
        return statistics

    def loss(self) -> Tensor:
        """Returns R of the pass that was recorded last: a differentiable scalar in float32 or wider."""
        terms = []
        for turn, (place, seen) in enumerate(sorted(self._seen.items())):
            layer = self.layers[place]
            mean, variance = self._smoothed(turn, *seen)
            assert layer.running_mean is not None and layer.running_var is not None
            terms += [(mean - layer.running_mean).norm(), (variance - layer.running_var).norm()]
        return torch.stack(terms).sum()

    def _smoothed(self, turn: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes mean and variance with their moving averages, where there are any."""
        if not self.averages:
            return mean, variance
        old_mean, old_variance = self.averages[2 * turn : 2 * turn + 2]
        return torch.lerp(mean, old_mean, self.momentum), torch.lerp(variance, old_variance, self.momentum)

    @torch.no_grad()
    def remember(self) -> None:
        """Adds the pass that was recorded last to the moving averages; does nothing without a momentum."""
        if not self.momentum:
            return

        latest = [statistic.detach().clone() for _, pair in sorted(self._seen.items()) for statistic in pair]
        if not self.averages:
            self.averages = latest
            return

        self.averages = [
            torch.lerp(new, old, self.momentum) for new, old in zip(latest, self.averages, strict=True)
        ]

    def embeddings(self) -> Tensor:
        """Returns the embedding of each image in the pass that was recorded last, (N, ``width``).

        An embedding holds the mean over height and width of every channel of every layer's input. It is
        differentiable, in float32 or wider.
        """
        return torch.cat([self._image_means[place] for place in sorted(self._image_means)], dim=1)

    def _note(self, place: int, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        center = layer.running_mean
        assert isinstance(center, Tensor), "only layers with running statistics are recorded"
        shifts, squares = _Moments.apply(inputs[0], center)
        self._seen[place] = (shifts.mean(dim=0), squares.mean(dim=0))
        self._image_means[place] = shifts + center

    def _note_images(self, place: int, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._image_means[place] = _ImageMeans.apply(inputs[0])


@torch.no_grad()
def _that_run(teacher: Teacher, layers: list[_BatchNorm]) -> set[_BatchNorm]:
    """Returns the layers that an image passes; an unused head has others."""
    ran: set[_BatchNorm] = set()
    spec, like = teacher.spec, teacher.image_mean
    handles = [layer.register_forward_pre_hook(lambda layer, _: ran.add(layer)) for layer in layers]
    try:
        teacher(like.new_zeros(1, spec.channels, spec.height, spec.width))
    finally:
        for handle in handles:
            handle.remove()
    return ran


class _Moments(torch.autograd.Function):
    """Computes the means over height and width of x - center and of its square.

    Both are (N, C) in float32 or wider. The running mean serves as the center, because E[x^2] - E[x]^2 loses
    digits where the mean is far from 0. For 64 maps of (32, 32, 32) in bf16 on one AVX-512 core, forward and
    backward take 4 ms, and ``torch.var_mean`` takes 24 ms.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, C, ...) and (C,) to (N, C) twice."""
        ctx.save_for_backward(features, center)
        away = features - _beside(center, features)
        places = tuple(range(2, features.ndim))
        if not places:
            return away, away.square()
        return away.mean(dim=places), away.square_().mean(dim=places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, shift_gradient: Tensor, square_gradient: Tensor) -> tuple[Tensor, None]:
        """Returns (a + 2 b (x - center)) / places in one pass over x."""
        features, center = ctx.saved_tensors
        slope = 2 * square_gradient
        start = shift_gradient - slope * center
        places = features[0, 0].numel()
        start, slope = (_beside(part / places, features) for part in (start, slope))
        return torch.addcmul(start, slope, features).to(features.dtype), None


class _ImageMeans(torch.autograd.Function):
    """Computes the means over height and width, (N, C), in float32 or wider.

    The gradient is the same at every place, so it is returned as a view and never written out.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Maps (N, C, ...) to (N, C)."""
        ctx.shape, ctx.dtype = features.shape, features.dtype
        wide = torch.promote_types(features.dtype, torch.float32)
        return features.to(wide) if features.ndim == 2 else features.flatten(2).mean(dim=2, dtype=wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Returns the gradient divided by the number of places."""
        places = math.prod(ctx.shape[2:])
        share: Tensor = (gradient / places).to(ctx.dtype)
        return share.view(*share.shape, *[1] * (len(ctx.shape) - 2)).expand(ctx.shape)


def _beside(statistic: Tensor, features: Tensor) -> Tensor:
    """Shapes (C,) or (N, C) so that it broadcasts over ``features``, (N, C, ...)."""
    return statistic.view(*statistic.shape, *[1] * (features.ndim - 2))
