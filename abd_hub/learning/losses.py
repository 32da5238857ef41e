"""Defines losses between a teacher and a student. This module imports no other module of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_per_sample(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns KL(softmax(teacher / T) || softmax(student / T)) for each sample, in nats.

    Args:
        teacher_logits: (..., N, classes); the gradient flows into it unless the caller detaches it.
        student_logits: same shape.
        temperature: T > 0. The result is *not* multiplied by T squared.

    Returns:
        (..., N), at least 0 up to rounding, in float32 or wider. Half precision would lose the difference of
        two nearly equal log-probabilities.
    """
    log_p = F.log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    log_q = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns ``kl_per_sample`` averaged over the samples ("batchmean"), a scalar."""
    return kl_per_sample(teacher_logits, student_logits, temperature).mean()


def l1_per_sample(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Returns the mean over the classes of |teacher - student| (DFAD, arXiv 1912.11006, eq. 3).

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.

    Returns:
        (N,), float32 or wider.
    """
    return (_wide(teacher_logits) - _wide(student_logits)).abs().mean(dim=-1)


def cross_entropy_per_sample(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns -log softmax(logits)[label] for each sample, in nats.

    Args:
        logits: (N, classes).
        labels: (N,) int64.

    Returns:
        (N,), float32 or wider.
    """
    return F.cross_entropy(_wide(logits), labels, reduction="none")


def one_hot_loss(logits: Tensor) -> Tensor:
    """Returns the cross-entropy with the most likely class as label (DAFL, ICCV 2019, arXiv 1904.01186).

    Args:
        logits: (N, classes).

    Returns:
        A scalar in nats, the mean over the samples; 0 where each image surely belongs to one class.
    """
    return cross_entropy_per_sample(logits, logits.argmax(dim=1)).mean()


def mean_magnitude(features: Tensor) -> Tensor:
    """Returns the mean of |features| over samples and entries, a scalar in float32 or wider."""
    return _wide(features).abs().mean()


def attention_transfer(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Returns attention transfer (Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928, eq. 2, p = 2).

    This is the sum over the blocks of mean((Q(student) - Q(teacher))^2). Q is the channel mean of the squared
    activations, flattened and divided by its L2 norm. As in ZSKT, a mean replaces the norm of the paper.

    Args:
        student_features: one (N, C_i, H_i, W_i) for each block.
        teacher_features: the same N, H_i, W_i; channel counts may differ.

    Returns:
        A scalar.
    """
    return attention_transfer_per_sample(student_features, teacher_features).mean()


def attention_transfer_per_sample(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Tensor:
    """Returns ``attention_transfer`` of each sample, (N,), whose mean is the loss of the batch."""
    pairs = zip(student_features, teacher_features, strict=True)
    maps = [(attention_map(s) - attention_map(t)).pow(2).mean(dim=1) for s, t in pairs]
    return torch.stack(maps).sum(dim=0)


def attention_map(features: Tensor) -> Tensor:
    """Returns where in the image a block is active: (N, C, H, W) to (N, H*W) of unit length."""
    return F.normalize(_wide(features).pow(2).mean(dim=1).flatten(1), dim=1)


def agreed_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Returns the adversarial term of CMI (IJCAI 2021, arXiv 2105.08584, eq. 6) without its sign.

    This is the mean over all samples of m_i KL(T_i || S_i), with m_i = 1 where both choose the same class,
    else 0. So an image on which they already disagree is not made harder still.

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.

    Returns:
        A scalar, at least 0 up to rounding; synthesis maximizes it.
    """
    agrees = teacher_logits.argmax(dim=1) == student_logits.argmax(dim=1)
    return (kl_per_sample(teacher_logits, student_logits) * agrees).mean()


def jensen_shannon(teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns the Jensen-Shannon divergence of the two predictions.

    DeepInversion uses it (CVPR 2020, arXiv 1912.08795, section 3.3). With p = softmax(teacher / T),
    q = softmax(student / T) and m = (p + q) / 2, the divergence is KL(p || m) / 2 + KL(q || m) / 2.

    Args:
        teacher_logits: (N, classes).
        student_logits: same shape.
        temperature: T > 0. The result is *not* multiplied by T squared.

    Returns:
        A scalar, the mean over the samples, in nats; 0 where both agree, at most ln 2.
    """
    log_p = F.log_softmax(_wide(teacher_logits) / temperature, dim=-1)
    log_q = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    per_class = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return per_class.sum(dim=-1).mean() / 2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy with the class that each image is made for, a scalar in nats.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
    """
    return cross_entropy_per_sample(logits, labels).mean()


def information_entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of the mean prediction (DAFL, ICCV 2019, arXiv 1904.01186, eq. 4).

    This is - sum_c p_c ln p_c.

    Args:
        logits: (N, classes).

    Returns:
        A scalar in nats; ln(classes) where the batch shows every class alike, 0 where it shows one class. The
        paper divides by the number of classes, and its code uses log10. So their weights do not apply here.
    """
    mean = _wide(logits).softmax(dim=1).mean(dim=0)
    return -(mean * mean.clamp(min=1e-12).log()).sum()


def total_variation(pixels: Tensor) -> Tensor:
    """Returns total variation as DeepInversion defines it (CVPR 2020, arXiv 1912.08795, eq. 3).

    Args:
        pixels: (N, C, H, W), in standard deviations.

    Returns:
        A scalar, the sum of ``variations``. It grows with the square root of the batch.
    """
    return variations(pixels).sum()


def variations(pixels: Tensor) -> Tensor:
    """Returns four L2 norms, (4,), each over one kind of difference in all of (N, C, H, W).

    The differences are to the right, lower, lower right and lower left neighbors.
    """
    right = pixels[:, :, :, :-1] - pixels[:, :, :, 1:]
    lower = pixels[:, :, :-1] - pixels[:, :, 1:]
    lower_right = pixels[:, :, :-1, :-1] - pixels[:, :, 1:, 1:]
    lower_left = pixels[:, :, :-1, 1:] - pixels[:, :, 1:, :-1]
    return torch.stack([d.norm() for d in (right, lower, lower_right, lower_left)])


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Returns InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) with cosine similarity, for each query.

    Row i of ``queries`` belongs to row i of ``keys``, and every other key is a negative. The loss is
    -log(exp(q_i . k_i / tau) / sum_j exp(q_i . k_j / tau)).

    Args:
        queries: (N, d).
        keys: (M, d) with M >= N; the rows after the N-th are negatives only.
        temperature: tau > 0.

    Returns:
        (N,), float32 or wider.
    """
    with torch.autocast(queries.device.type, enabled=False):  # autocast would round the product again
        # The queries are divided, because dividing 4,352 x 4,352 similarities takes 130 ms on one core.
        similar = F.normalize(_wide(queries), dim=1) / temperature @ F.normalize(_wide(keys), dim=1).T
    own = torch.arange(queries.shape[0], device=queries.device)
    return F.cross_entropy(similar, own, reduction="none")


def _wide(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or in float64 where it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
