"""Lets the student's maps predict the teacher's, block by block (FitNets, ICLR 2015, arXiv 1412.6550).

A linear map r_i, a 1x1 convolution, turns the student's map v_i after block i into as many channels as the
teacher's map u_i has. It learns with the student, and is dropped at the end. The loss is

    sum over the blocks of mean((r_i(v_i) - u_i)^2) / var(u_i).

The paper trains the lower half of a student by one hint in a first stage (eq. 3). Here all blocks give hints
throughout the run, beside the answers. The division by the variance of all numbers of u_i in the batch makes
blocks and teachers comparable. Answers to images without objects tell the student little, their maps tell it
more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.learning import distributed
from abd_hub.models.classifier import Classifier
from abd_hub.training.requirements import map_shapes


class Hints(nn.Module):
    """Holds the linear maps.

    Args:
        widths: channels of the student's and of the teacher's map, for each block.
        seed: seeds the first weights.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        with seeding.seeded(seed, "hints"):
            self.maps = nn.ModuleList(nn.Conv2d(own, wanted, 1) for own, wanted in widths)

    def per_sample(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Returns the loss of each image, (N,), in float32 or wider.

        Args:
            student_features: one (N, C_i, H_i, W_i) for each block.
            teacher_features: the same N, H_i, W_i; channels as in ``widths``.
        """
        losses = []
        variances = _variances(teacher_features)
        blocks = zip(self.maps, student_features, teacher_features, variances, strict=True)
        for predict, own, wanted, variance in blocks:
            gap = _wide(predict(own)) - _wide(wanted)
            losses.append(gap.square().flatten(1).mean(dim=1) / variance)
        return torch.stack(losses).sum(dim=0)


def make_hints(method: SynthesisMethod, teacher: Classifier, student: Classifier, seed: int) -> Hints | None:
    """Returns the maps for two networks on one device; None where the method gives no hints."""
    if not method.hint_weight:
        return None
    shapes = zip(map_shapes(student, teacher), map_shapes(teacher, teacher), strict=True)
    widths = [(own[0], wanted[0]) for own, wanted in shapes]
    return Hints(widths, seed).to(student.mean).to(memory_format=torch.channels_last)


@torch.no_grad()
def _variances(features: Sequence[Tensor]) -> list[Tensor]:
    """Returns the variance of all numbers of each block, over the rows of all processes."""
    moments = [torch.stack([_wide(block).mean(), _wide(block).square().mean()]) for block in features]
    whole = distributed.mean(torch.stack(moments))
    return [(square - mean.square()).clamp_min(1e-12) for mean, square in whole]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
