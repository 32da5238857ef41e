"""Losses between a teacher and a student. No module of ours is needed to read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_per_sample(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) for each sample, in nats.

    Args:
        teacher_logits: (..., N, classes); the gradient flows into it unless the caller detaches it.
        student_logits: same shape.
        temperature: T > 0. The result is *not* multiplied by T squared.

    Returns:
        (..., N), at least 0 up to rounding, in float32 or wider: half precision would lose the
        difference of two nearly equal log-probabilities.
    """
    log_p = F.log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    log_q = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``kl_per_sample`` summed over classes and averaged over samples ("batchmean"): a scalar."""
    return kl_per_sample(teacher_logits, student_logits, temperature).mean()


def attention_transfer(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2 with p = 2).

    Sum over the blocks of mean((Q(student) - Q(teacher))^2), where Q is the channel mean of the squared
    activations, flattened and divided by its L2 norm. Mean instead of the paper's norm, as in ZSKT.

    Args:
        student_features: one (N, C_i, H_i, W_i) a block.
        teacher_features: the same N, H_i, W_i; channel counts may differ.

    Returns:
        A scalar.
    """
    pairs = zip(student_features, teacher_features, strict=True)
    maps = [(attention_map(s) - attention_map(t)).pow(2).mean() for s, t in pairs]
    return torch.stack(maps).sum()


def attention_map(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H*W) of unit length: where in the image the block is active."""
    return F.normalize(_wide(features).pow(2).mean(dim=1).flatten(1), dim=1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
