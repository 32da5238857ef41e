"""Lets the student's maps predict the teacher's, block by block (FitNets, ICLR 2015, arXiv 1412.6550).

A linear map r_i, a 1x1 convolution, turns the student's map v_i after block i into as many channels as the
teacher's map u_i has. It learns with the student, and is dropped at the end. The loss is

    sum over the blocks of mean((r_i(v_i / sd(v_i)) - u_i / sd(u_i))^2).

Blocks are paired by height and width. The paper trains the lower half of a student by one hint in a first
stage (eq. 3). Here all pairs give hints throughout the run, beside the answers. sd is the standard deviation
of all numbers of a block in the batch, without a gradient. It makes blocks and teachers comparable. Without
sd(v_i) the linear maps diverged at the student's rates. Answers to images without objects tell the student
little, their maps tell it more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from abd_hub.core import seeding
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.learning import distributed
from abd_hub.models.classifier import Classifier
from abd_hub.training.requirements import hint_pairs, map_shapes

LEAST_VARIANCE = 1e-12
"""Keeps a constant map finite."""


class Hints(nn.Module):
    """Holds the linear maps.

    Args:
        widths: channels of the student's and of the teacher's map, for each pair of blocks.
        pairs: numbers of the student's and of the teacher's block, whose maps have one height and width.
        seed: seeds the first weights.
    """

    def __init__(
        self, widths: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]], seed: int
    ) -> None:
        super().__init__()
        self.pairs = list(pairs)
        with seeding.seeded(seed, "hints"):
            self.maps = nn.ModuleList(nn.Conv2d(own, wanted, 1) for own, wanted in widths)

    def per_sample(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Returns the loss of each image, (N,), in float32 or wider.

        Args:
            student_features: one (N, C_i, H_i, W_i) for each block.
            teacher_features: the same N, and for each pair the same H_i, W_i; channels as in ``widths``.
        """
        student_features = [student_features[own] for own, _ in self.pairs]
        teacher_features = [teacher_features[wanted] for _, wanted in self.pairs]
        losses = []
        deviations = zip(_deviations(student_features), _deviations(teacher_features), strict=True)
        blocks = zip(self.maps, student_features, teacher_features, deviations, strict=True)
        for linear, own, wanted, (own_scale, scale) in blocks:
            assert isinstance(linear, nn.Conv2d) and linear.bias is not None, "all maps are such"
            # The weights are scaled in place of the maps, which are a thousand times larger.
            weight, bias = linear.weight * (scale / own_scale), linear.bias * scale
            predicted = F.conv2d(own, weight.to(own.dtype), bias.to(own.dtype))
            losses.append(_MeanSquares.apply(predicted, wanted) / scale.square())
        return torch.stack(losses).sum(dim=0)


def make_hints(method: SynthesisMethod, teacher: Classifier, student: Classifier, seed: int) -> Hints | None:
    """Returns the maps for two networks on one device; None where the method gives no hints."""
    if not method.hint_weight:
        return None
    own, wanted = map_shapes(student, teacher), map_shapes(teacher, teacher)
    pairs = hint_pairs(own, wanted)
    widths = [(own[i][0], wanted[j][0]) for i, j in pairs]
    return Hints(widths, pairs, seed).to(student.mean).to(memory_format=torch.channels_last)


@torch.no_grad()
def _deviations(features: Sequence[Tensor]) -> list[Tensor]:
    """Returns the standard deviation of each block over all rows of all processes, in float32 or wider."""
    moments = []
    for block in features:
        wide = torch.promote_types(block.dtype, torch.float32)
        square = torch.linalg.vector_norm(block, dtype=wide).square() / block.numel()
        moments.append(torch.stack([block.mean(dtype=wide), square]))
    whole = distributed.mean(torch.stack(moments))
    return list((whole[:, 1] - whole[:, 0].square()).clamp_min(LEAST_VARIANCE).sqrt())


class _MeanSquares(torch.autograd.Function):
    """Computes the mean of (predicted - wanted)^2 of each image, (N,), in float32 or wider.

    The gap is kept in the maps' precision. Written out in float32, hints doubled the time of a student's step
    in bf16 on one AVX-512 core.
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Maps (N, C, H, W) twice to (N,); only the first gets a gradient."""
        gap = predicted - wanted
        ctx.save_for_backward(gap)
        wide = torch.promote_types(gap.dtype, torch.float32)
        means: Tensor = torch.linalg.vector_norm(gap, dim=(1, 2, 3), dtype=wide).square() / gap[0].numel()
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Returns 2 gradient gap / (C H W)."""
        (gap,) = ctx.saved_tensors
        slope = (gradient * (2 / gap[0].numel())).to(gap.dtype)
        return gap * slope.view(-1, 1, 1, 1), None
