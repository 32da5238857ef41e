"""Layers that look at a whole batch, or draw for it, do so over the shares of all processes.

Inside ``global_batch()`` a batch that is shared by several processes goes through a network as it would on
one: BatchNorm in training normalizes by the statistics of all rows and records them, and dropout and drop
path draw for all rows, of which each process uses its own. torch's own SyncBatchNorm runs on accelerators
only and is another class; here the networks stay what they are. With one process nothing is changed.

Draws that a network makes in another way, such as the dropout inside a fused attention, are the same on all
processes, each for its own rows.
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


def global_batch() -> AbstractContextManager[Any]:
    """Inside, the rows that a network is given are this process's share of a batch.

    Passes must be the same on all processes, forwards and backwards.
    """
    return nullcontext() if distributed.world()[1] == 1 else _GlobalBatch()


class _GlobalBatch(TorchFunctionMode):
    """Takes the calls of some functions of torch, whichever module makes them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func in _DROPOUTS:
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
    """``F.batch_norm`` of the global batch, of which ``maps`` (N, C, ...) are this process's rows.

    Of operations that can be differentiated twice, as self-retrospection does.
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
    """Mean and biased variance (C,) over all rows and places, in float32 or wider.

    The shares' variances and the spread of their means are added: the mean square less the squared mean would
    lose digits.
    """
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, dim=[0, *range(2, maps.ndim)], correction=0)
    means, variances = distributed.gather_rows(torch.stack([mean, variance])[None]).unbind(dim=1)
    whole = means.mean(dim=0)
    return whole, variances.mean(dim=0) + (means - whole).square().mean(dim=0)


def _dropout(
    function: Any, rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Drawn for the global batch, which this process's rows stand in for everywhere."""
    if not training or p == 0:
        return rows
    whole = torch.cat([rows] * distributed.world()[1])
    return distributed.own_rows(function(whole, p, True))


def _bernoulli(rows: Tensor, p: Any = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """timm's drop path: one draw for each row, from the global generator."""
    if generator is not None or rows.ndim == 0:
        return rows.bernoulli_(p, generator=generator)
    whole = torch.cat([rows.detach()] * distributed.world()[1])
    return rows.copy_(distributed.own_rows(whole.bernoulli_(p)))


_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
