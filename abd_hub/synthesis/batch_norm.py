"""BatchNorm statistics as a prior for images (DeepInversion, CVPR 2020, arXiv 1912.08795, eq. 4).

A teacher's BatchNorm layers remember mean and variance of what they saw in training. Images whose
statistics are close to these look, to the teacher, like its training data:

    R(x) = sum over BatchNorm layers of |mean(x) - running mean|_2 + |var(x) - running var|_2,

with the biased variance over batch, height and width. Fast (AAAI 2022, arXiv 2112.06253) takes instead of
the batch's own statistics a moving average over the batches: m = (1 - momentum) mean(x) + momentum * average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abd_hub import distributed
from abd_hub.types import InputError


class BatchNormStatistics:
    """What a teacher's BatchNorm layers see, recorded on request.

    Args:
        teacher: frozen.
        method: who asks, for the error.
        momentum: of the moving average over batches; 0 for the batch's own statistics.

    Raises:
        InputError: no layer has running statistics.
    """

    def __init__(self, teacher: nn.Module, method: str, momentum: float = 0.0) -> None:
        self.layers = [
            layer
            for layer in teacher.modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        if not self.layers:
            raise InputError(
                f"{method}: it matches the statistics of BatchNorm layers, and the teacher has none; "
                "use zskt, dfad or ood, which need none"
            )
        self.momentum = momentum
        self.averages: list[Tensor] = []
        """Moving mean and variance of each layer that runs, in turn; empty before the first ``remember``."""
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}
        """By place in ``layers``, which is not the order in which a teacher with shortcuts runs them."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, one pass through the teacher leaves the statistics of its batch here."""
        self._seen = {}
        handles = [
            layer.register_forward_pre_hook(partial(self._note, place))
            for place, layer in enumerate(self.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def loss(self) -> Tensor:
        """R of the pass that was recorded last: a scalar, differentiable, in float32 or wider."""
        terms = []
        for turn, (place, seen) in enumerate(sorted(self._seen.items())):
            layer = self.layers[place]
            mean, variance = self._smoothed(turn, *seen)
            assert layer.running_mean is not None and layer.running_var is not None, "chosen for them"
            terms += [(mean - layer.running_mean).norm(), (variance - layer.running_var).norm()]
        return torch.stack(terms).sum()

    def _smoothed(self, turn: int, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        if not self.averages:
            return mean, variance
        old_mean, old_variance = self.averages[2 * turn : 2 * turn + 2]
        return torch.lerp(mean, old_mean, self.momentum), torch.lerp(variance, old_variance, self.momentum)

    @torch.no_grad()
    def remember(self) -> None:
        """Takes the pass that was recorded last into the moving averages; nothing without a momentum."""
        if not self.momentum:
            return
        latest = [statistic.detach().clone() for _, pair in sorted(self._seen.items()) for statistic in pair]
        distributed.average_(latest)
        if not self.averages:
            self.averages = latest
            return
        self.averages = [
            torch.lerp(new, old, self.momentum) for new, old in zip(latest, self.averages, strict=True)
        ]

    def _note(self, place: int, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        features = inputs[0]
        wide = features if features.dtype == torch.float64 else features.float()
        over = [0, *range(2, wide.ndim)]
        variance, mean = torch.var_mean(wide, dim=over, correction=0)
        self._seen[place] = (mean, variance)
