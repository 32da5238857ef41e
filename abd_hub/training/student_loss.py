"""The loss that the student minimizes on one batch."""

from __future__ import annotations

from torch import Tensor

from abd_hub.core.contracts import Batch, SynthesisMethod
from abd_hub.learning.losses import (
    attention_transfer_per_sample,
    cross_entropy_per_sample,
    kl_per_sample,
    l1_per_sample,
)
from abd_hub.training.hints import Hints


def student_loss(
    method: SynthesisMethod,
    batch: Batch,
    logits: Tensor,
    features: tuple[Tensor, ...],
    hints: Hints | None = None,
) -> Tensor:
    """Returns the weighted sum of the method's losses as a scalar.

    Args:
        method: names the losses, their weights and the temperature.
        batch: has the teacher's answers and perhaps weights of the samples.
        logits: (N, classes), the student's.
        features: the student's block outputs, each (N, C_i, H_i, W_i); read for attention transfer and hints.
        hints: maps from the student's block outputs to the teacher's; None where the method gives no hints.

    Returns:
        The mean over the samples, or the weighted sum where the batch has weights.
    """
    losses = _divergence(method, batch.teacher_logits, logits)
    if method.cross_entropy_weight:
        hard = cross_entropy_per_sample(logits, batch.teacher_logits.argmax(dim=1))
        losses = losses + method.cross_entropy_weight * hard
    if method.attention_weight:
        attention = attention_transfer_per_sample(features, batch.teacher_features)
        losses = losses + method.attention_weight * attention
    if hints is not None:
        losses = losses + method.hint_weight * hints.per_sample(features, batch.teacher_features)

    return losses.mean() if batch.weights is None else (losses * batch.weights).sum()


def _divergence(method: SynthesisMethod, teacher_logits: Tensor, logits: Tensor) -> Tensor:
    if method.loss == "l1":
        return l1_per_sample(teacher_logits, logits)
    scale = method.temperature**2 if method.temperature_squared else 1.0
    return scale * kl_per_sample(teacher_logits, logits, method.temperature)
