"""Exchanges tensors between several processes. Each function does nothing where there is one process.

Every process holds an equal share of a batch. Most losses are means over rows, and a process computes the
mean over its own rows. For any other loss, every process gathers the rows and computes the loss of the whole
batch. Either way, the mean of the processes' losses equals the loss that one process would compute.

The functions are differentiable. Each process gets the gradient of the *sum* of all processes' losses.
``average_gradients`` averages these gradients, which gives the gradient of the mean. Images or noise that one
process has alone cannot be averaged, so ``own_gradient`` divides their gradient instead.

The package reduces gradients itself instead of wrapping models in DistributedDataParallel.
Self-retrospection differentiates twice through the student, and the hooks of DDP miss the second time. For
students of a million weights, one flat reduction a step costs no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def average_(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its mean over the processes, with one reduction for each dtype."""
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
    """Averages ``.grad`` over the processes, which must all hold gradients for the same parameters."""
    average_([parameter.grad for parameter in parameters if parameter.grad is not None])


def own_gradient(tensor: Tensor) -> None:
    """Divides ``.grad`` of a tensor that only this process has; the result belongs to the mean loss."""
    size = world()[1]
    if size > 1 and tensor.grad is not None:
        tensor.grad /= size


def average_statistics(module: nn.Module) -> None:
    """Averages floating-point buffers over the processes, for layers that recorded only their own rows."""
    average_([buffer for buffer in module.buffers() if buffer.is_floating_point()])


def gather_rows(tensor: Tensor) -> Tensor:
    """Joins (n, ...) of each process to (n * processes, ...) in rank order; twice differentiable.

    All processes must pass the same n.
    """
    if world()[1] == 1:
        return tensor
    rows: Tensor = _Gathered.apply(tensor)
    return rows


def mean(tensor: Tensor) -> Tensor:
    """Turns means over each process's rows into means over all rows; same shape, differentiable."""
    return tensor if world()[1] == 1 else gather_rows(tensor[None]).mean(dim=0)


def norm(tensor: Tensor) -> Tensor:
    """Turns L2 norms over each process's rows into norms over all rows; same shape, differentiable."""
    return tensor if world()[1] == 1 else gather_rows(tensor[None]).norm(dim=0)


def sum_(tensor: Tensor) -> Tensor:
    """Replaces the tensor by its sum over the processes, without a gradient."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def own_rows(tensor: Tensor, dim: int = 0) -> Tensor:
    """Returns the rows of a global batch that belong to this process; shares are contiguous and equal.

    Args:
        tensor: of the global batch.
        dim: the dimension that counts the rows.
    """
    rank, size = world()
    share = tensor.shape[dim] // size
    return tensor.narrow(dim, rank * share, share)


class _Gathered(torch.autograd.Function):
    """Joins (n, ...) of each process to (n * processes, ...)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Makes rows contiguous first, because a collective sends memory and ignores channels_last."""
        own = tensor.contiguous()
        rows = own.new_empty(world()[1] * own.shape[0], *own.shape[1:])
        dist.all_gather_into_tensor(rows, own)
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Returns this process's rows of the sum over the processes."""
        rows: Tensor = _OwnOfSum.apply(gradient)
        return rows


class _OwnOfSum(torch.autograd.Function):
    """Sums (n * processes, ...) over the processes and keeps this process's (n, ...)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Sums in float32 or wider."""
        wide = torch.promote_types(tensor.dtype, torch.float32)
        total = tensor.to(wide, memory_format=torch.contiguous_format, copy=True)
        dist.all_reduce(total)
        return own_rows(total).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Returns all rows, because each process had a part in each row."""
        rows: Tensor = _Gathered.apply(gradient)
        return rows
