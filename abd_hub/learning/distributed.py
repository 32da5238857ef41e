"""What several processes tell each other. Each function does nothing where there is one process.

Every process holds an equal share of a batch. Its loss is either the mean over its own rows or, where a loss
is no mean over rows, the loss of the whole batch, computed by every process from what the functions here
gather: either way the mean of the processes' losses is that of one process. The functions are differentiable,
and the gradient that a process gets is that of the *sum* of all processes' losses: averaged over the
processes, as ``average_gradients`` does, it is the gradient of the mean. What a process has alone, its own
images or noise, is not averaged but divided, by ``own_gradient``.

The package reduces gradients itself instead of wrapping models in DistributedDataParallel: the
retrospection differentiates twice through the student, which DDP's hooks do not see, and for students of
a million weights one flat reduction a step costs no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def average_(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its mean over the processes, in one reduction a dtype."""
    size = world()[1]
    if size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        dist.all_reduce(flat)
        flat /= size
        sizes = [tensor.numel() for tensor in group]
        for tensor, mean in zip(group, torch.split(flat, sizes), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages ``.grad`` over the processes; all must hold gradients for the same parameters."""
    average_([parameter.grad for parameter in parameters if parameter.grad is not None])


def own_gradient(tensor: Tensor) -> None:
    """Divides ``.grad`` of what this process has alone, so that it is that of the mean of the losses."""
    size = world()[1]
    if size > 1 and tensor.grad is not None:
        tensor.grad /= size


def average_statistics(module: nn.Module) -> None:
    """Averages floating-point buffers: for layers whose running statistics are not those of all rows yet."""
    average_([buffer for buffer in module.buffers() if buffer.is_floating_point()])


def gather_rows(tensor: Tensor) -> Tensor:
    """(n, ...) on each process to (n * processes, ...) in rank order; n must agree. Differentiable, twice."""
    if world()[1] == 1:
        return tensor
    rows: Tensor = _Gathered.apply(tensor)
    return rows


def mean(tensor: Tensor) -> Tensor:
    """Means over the rows of each process to those over all rows, same shape, differentiable."""
    return tensor if world()[1] == 1 else gather_rows(tensor[None]).mean(dim=0)


def norm(tensor: Tensor) -> Tensor:
    """L2 norms over the rows of each process to those over all rows, same shape, differentiable."""
    return tensor if world()[1] == 1 else gather_rows(tensor[None]).norm(dim=0)


def sum_(tensor: Tensor) -> Tensor:
    """Replaces the tensor by its sum over the processes; without a gradient."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def own_rows(tensor: Tensor, dim: int = 0) -> Tensor:
    """The rows of a global batch that belong to this process: contiguous, equal shares.

    Args:
        tensor: of the global batch.
        dim: which dimension are the rows.
    """
    rank, size = world()
    share = tensor.shape[dim] // size
    return tensor.narrow(dim, rank * share, share)


class _Gathered(torch.autograd.Function):
    """(n, ...) to (n * processes, ...)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Contiguous rows: a collective sees memory, not channels_last."""
        own = tensor.contiguous()
        rows = own.new_empty(world()[1] * own.shape[0], *own.shape[1:])
        dist.all_gather_into_tensor(rows, own)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The sum over the processes, of it this one's rows."""
        rows: Tensor = _OwnOfSum.apply(gradient)
        return rows


class _OwnOfSum(torch.autograd.Function):
    """(n * processes, ...), different on each process, to this process's (n, ...) of the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Summed in float32 or wider."""
        wide = torch.promote_types(tensor.dtype, torch.float32)
        total = tensor.to(wide, memory_format=torch.contiguous_format, copy=True)
        dist.all_reduce(total)
        return own_rows(total).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """All rows again: each process had a part in each."""
        rows: Tensor = _Gathered.apply(gradient)
        return rows
