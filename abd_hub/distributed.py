"""What several processes tell each other. Each function does nothing where there is one process.

The package reduces gradients itself instead of wrapping models in DistributedDataParallel: the
retrospection differentiates twice through the student, which DDP's hooks do not see, and for students of
a million weights one flat reduction a step costs no more.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def average_statistics(module: nn.Module) -> None:
    """Averages floating-point buffers (BatchNorm's running statistics), so that all processes agree."""
    average_([buffer for buffer in module.buffers() if buffer.is_floating_point()])


def gather_rows(tensor: Tensor) -> Tensor:
    """(n, ...) on each process to (n * processes, ...) in rank order; n must agree."""
    size = world()[1]
    if size == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def own_rows(tensor: Tensor) -> Tensor:
    """The rows of a global batch that belong to this process: contiguous, equal shares."""
    rank, size = world()
    share = tensor.shape[0] // size
    return tensor[rank * share : (rank + 1) * share]
