"""Makes layers that depend on a whole batch use the rows of all processes.

Inside ``global_batch()`` several processes share a batch, and a network treats it as one process would.
BatchNorm in training normalizes by the statistics of all rows and records them. Dropout and drop path draw
for all rows, and each process uses its own part of the draw. With one process nothing changes.

torch's own SyncBatchNorm runs on accelerators only and replaces the layers. Here the layers stay as they are.

Other draws of a network, such as the dropout inside a fused attention, are not made for all rows. Each
process makes the same draw for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from abd_hub.learning import distributed
from abd_hub.learning.modes import DROPOUTS


def global_batch() -> AbstractContextManager[Any]:
    """Returns a context in which the rows that a network gets are this process's share of a batch.

    All processes must make the same passes, forwards and backwards.
    """
    return nullcontext() if distributed.world()[1] == 1 else _GlobalBatch()


class _GlobalBatch(TorchFunctionMode):
    """Replaces some functions of torch, whichever module calls them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func in DROPOUTS:
            return _dropout(func, *args, **(kwargs or {}))
        if func is Tensor.bernoulli_:
            return _bernoulli(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Computes ``F.batch_norm`` of the global batch; ``maps`` (N, C, ...) are this process's rows.

    All its operations are twice differentiable, because self-retrospection differentiates twice.
    """
    if not training:
        return F.batch_norm(maps, running_mean, running_var, weight, bias, False, momentum, eps)

    mean, variance = _moments(maps)
    if running_mean is not None and running_var is not None:
        count = maps.numel() // maps.shape[1] * distributed.world()[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(1, count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)

    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    start = -mean * scale if bias is None else bias - mean * scale
    scale, start = (part.view(-1, *[1] * (maps.ndim - 2)) for part in (scale, start))
    return torch.addcmul(start, maps, scale).to(maps.dtype)


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance (C,) over all rows and places, in float32 or wider.

    The variance is the mean of the shares' variances plus the spread of their means. The mean square less the
    squared mean would lose digits.
    """
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, dim=[0, *range(2, maps.ndim)], correction=0)
    means, variances = distributed.gather_rows(torch.stack([mean, variance])[None]).unbind(dim=1)
    whole = means.mean(dim=0)
    return whole, variances.mean(dim=0) + (means - whole).square().mean(dim=0)


def _dropout(
    function: Any, rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Draws for the global batch, where copies of this process's rows stand in for the other rows."""
    if not training or p == 0:
        return rows
    whole = torch.cat([rows] * distributed.world()[1])
    return distributed.own_rows(function(whole, p, True))


def _bernoulli(rows: Tensor, p: Any = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """Draws for timm's drop path: once for each row, from the global generator."""
    if generator is not None or rows.ndim == 0:
        return rows.bernoulli_(p, generator=generator)
    whole = torch.cat([rows.detach()] * distributed.world()[1])
    return rows.copy_(distributed.own_rows(whole.bernoulli_(p)))
