"""Lets the student's maps predict the teacher's, block by block (FitNets, ICLR 2015, arXiv 1412.6550).

A linear map r_i, a 1x1 convolution, turns the student's map v_i after block i into as many channels as the
teacher's map u_i has. It learns with the student, and is dropped at the end. The loss is

    sum over the blocks of mean((r_i(v_i / sd(v_i)) - u_i / sd(u_i))^2).

The paper trains the lower half of a student by one hint in a first stage (eq. 3). Here all blocks give hints
throughout the run, beside the answers. sd is the standard deviation of all numbers of a block in the batch,
without a gradient. It makes blocks and teachers comparable. Without sd(v_i) the linear maps diverged at the
student's rates. Answers to images without objects tell the student little, their maps tell it more.
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

LEAST_VARIANCE = 1e-12
"""Keeps a constant map finite."""


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
        blocks = zip(self.maps, _scaled(student_features), _scaled(teacher_features), strict=True)
        for predict, own, wanted in blocks:
            gap = _wide(predict(own)) - _wide(wanted)
            losses.append(gap.square().flatten(1).mean(dim=1))
        return torch.stack(losses).sum(dim=0)


def make_hints(method: SynthesisMethod, teacher: Classifier, student: Classifier, seed: int) -> Hints | None:
    """Returns the maps for two networks on one device; None where the method gives no hints."""
    if not method.hint_weight:
        return None
    shapes = zip(map_shapes(student, teacher), map_shapes(teacher, teacher), strict=True)
    widths = [(own[0], wanted[0]) for own, wanted in shapes]
    return Hints(widths, seed).to(student.mean).to(memory_format=torch.channels_last)


def _scaled(features: Sequence[Tensor]) -> list[Tensor]:
    """Divides each block by its standard deviation over all rows of all processes."""
    with torch.no_grad():
        moments = [torch.stack([_wide(block).mean(), _wide(block).square().mean()]) for block in features]
        whole = distributed.mean(torch.stack(moments))
        deviations = (whole[:, 1] - whole[:, 0].square()).clamp_min(LEAST_VARIANCE).sqrt()
    return [block / scale.to(block.dtype) for block, scale in zip(features, deviations, strict=True)]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
