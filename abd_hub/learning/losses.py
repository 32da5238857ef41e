"""Losses between a teacher and a student. No module of ours is needed to read them."""

from __future__ import annotations

import math
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


def l1_per_sample(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Mean over the classes of |teacher - student| (DFAD, arXiv 1912.11006, eq. 3).

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.

    Returns:
        (N,), float32 or wider.
    """
    return (_wide(teacher_logits) - _wide(student_logits)).abs().mean(dim=-1)


def cross_entropy_per_sample(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label] for each sample, in nats.

    Args:
        logits: (N, classes).
        labels: (N,) int64.

    Returns:
        (N,), float32 or wider.
    """
    return F.cross_entropy(_wide(logits), labels, reduction="none")


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy with the most likely class as label (DAFL, ICCV 2019, arXiv 1904.01186).

    Args:
        logits: (N, classes).

    Returns:
        A scalar in nats, 0 where every image is of one class beyond doubt.
    """
    return cross_entropy_per_sample(logits, logits.argmax(dim=1)).mean()


def mean_magnitude(features: Tensor) -> Tensor:
    """Mean of |features| over samples and entries, a scalar in float32 or wider."""
    return _wide(features).abs().mean()


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
    return attention_transfer_per_sample(student_features, teacher_features).mean()


def attention_transfer_per_sample(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Tensor:
    """``attention_transfer`` of each sample, (N,): its mean over samples is the loss of the batch."""
    pairs = zip(student_features, teacher_features, strict=True)
    maps = [(attention_map(s) - attention_map(t)).pow(2).mean(dim=1) for s, t in pairs]
    return torch.stack(maps).sum(dim=0)


def attention_map(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H*W) of unit length: where in the image the block is active."""
    return F.normalize(_wide(features).pow(2).mean(dim=1).flatten(1), dim=1)


def agreed_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """The adversarial term of CMI (IJCAI 2021, arXiv 2105.08584, eq. 6) without its sign.

    The mean over all samples of m_i KL(T_i || S_i), m_i = 1 where both choose the same class, else 0: an
    image on which they already decide differently is not made harder still.

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.

    Returns:
        A scalar, at least 0 up to rounding; synthesis maximizes it.
    """
    agrees = teacher_logits.argmax(dim=1) == student_logits.argmax(dim=1)
    return (kl_per_sample(teacher_logits, student_logits) * agrees).mean()


def jensen_shannon(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence of the two predictions (DeepInversion, CVPR 2020, arXiv 1912.08795, 3.3).

    KL(p || m) / 2 + KL(q || m) / 2 with p = softmax(teacher / T), q = softmax(student / T), m = (p + q) / 2.

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.
        temperature: T > 0. The result is *not* multiplied by T squared.

    Returns:
        A scalar, the mean over the samples, in nats: 0 where both agree, at most ln 2.
    """
    log_p = F.log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    log_q = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    per_class = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return per_class.sum(dim=-1).mean() / 2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the class that each image is made for, averaged over samples: a scalar.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
    """
    return cross_entropy_per_sample(logits, labels).mean()


def information_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction (DAFL, ICCV 2019, arXiv 1904.01186, eq. 4): - sum_c p_c ln p_c.

    Args:
        logits: (N, classes).

    Returns:
        A scalar in nats: ln(classes) where the batch shows every class alike, 0 where it shows one. The
        paper divides by the number of classes and its code takes log10: weights are not portable.
    """
    mean = _wide(logits).softmax(dim=1).mean(dim=0)
    return -(mean * mean.clamp(min=1e-12).log()).sum()


def total_variation(pixels: Tensor) -> Tensor:
    """Total variation as DeepInversion takes it (CVPR 2020, arXiv 1912.08795, eq. 3).

    Args:
        pixels: (N, C, H, W), in standard deviations.

    Returns:
        A scalar, the sum of ``variations``. It grows with the square root of the batch.
    """
    return variations(pixels).sum()


def variations(pixels: Tensor) -> Tensor:
    """L2 norms, over all (N, C, H, W), of the differences to the right, lower, lower right and lower left
    neighbors: (4,)."""
    right = pixels[:, :, :, :-1] - pixels[:, :, :, 1:]
    lower = pixels[:, :, :-1] - pixels[:, :, 1:]
    lower_right = pixels[:, :, :-1, :-1] - pixels[:, :, 1:, 1:]
    lower_left = pixels[:, :, :-1, 1:] - pixels[:, :, 1:, :-1]
    return torch.stack([d.norm() for d in (right, lower, lower_right, lower_left)])


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) with cosine similarity, for each query.

    Row i of ``queries`` belongs to row i of ``keys``; every other key is a negative:
    -log(exp(q_i . k_i / tau) / sum_j exp(q_i . k_j / tau)).

    Args:
        queries: (N, d).
        keys: (M, d) with M >= N; the rows after the N-th are negatives only.
        temperature: tau > 0.

    Returns:
        (N,), float32 or wider.
    """
    with torch.autocast(queries.device.type, enabled=False):  # which would round the product again
        # divided before the product: 4,352 x 4,352 similarities are 130 ms of divisions on one core
        similar = F.normalize(_wide(queries), dim=1) / temperature @ F.normalize(_wide(keys), dim=1).T
    own = torch.arange(queries.shape[0], device=queries.device)
    return F.cross_entropy(similar, own, reduction="none")


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
