"""Implements the adversarial distillation of DFQ (Choi et al., CVPRW 2020, arXiv 2005.04136).

A generator G draws images on which the student S disagrees with the teacher T. Three further terms keep them
near the teacher's training images. With p = softmax(T(x)) and its mean q over the batch, G minimizes

    -KL(T(x) || S(x)) + R(x) + CE(p, argmax p) - 20 * H(q),   H(q) = - sum_c q_c ln q_c,

where R is the distance to the statistics of T's BatchNorm layers (see ``batch_norm``). Each round takes one
generator step and then ten student steps, each on images drawn anew.

Terms and figures follow the baseline in the code of CMI (arXiv 2105.08584) and Fast (arXiv 2112.06253). R has
norms where the paper has the divergence of two Gaussians. The cross-entropy replaces the entropy of each
prediction. There is one generator, and no warm-up of the generator alone.

In that code the generator gets the teacher in the student's place, so the two never disagree. Here, as in the
paper, the generator gets the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from accelerate import Accelerator
from torch import Tensor, nn

from abd_hub.core.contracts import Teacher, View
from abd_hub.core.registry import register
from abd_hub.core.settings import NotNegative
from abd_hub.learning import distributed
from abd_hub.learning.losses import information_entropy, kl, one_hot_loss
from abd_hub.synthesis.batch_norm import BatchNormStatistics
from abd_hub.synthesis.generator_step import GeneratorMethod, GeneratorSynthesizer

_BETAS = (0.5, 0.999)
"""Are the betas of the generator's Adam, as in the baseline."""


@register("synthesizers", "dfq")
@dataclass(frozen=True, kw_only=True)
class Dfq(GeneratorMethod):
    """DFQ: a generator seeks disagreement on images that match the teacher's BatchNorm statistics."""

    citation: ClassVar[str] = """@inproceedings{choi2020dfq,
  title     = {Data-Free Network Quantization With Adversarial Knowledge Distillation},
  author    = {Choi, Yoojin and Choi, Jihwan and El-Khamy, Mostafa and Lee, Jungwon},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2020},
  note      = {arXiv:2005.04136}
}"""

    rounds: int = 8_000
    """Sets the number of rounds, each with one generator step (200 epochs of 400 student steps)."""
    batch_size: int = 256
    """Sets the images per batch; the processes share them."""
    student_steps: int = 10
    """Sets the student steps per round; each draws its images anew."""
    learning_rate: float = 0.1
    """Sets the student's learning rate; from here it follows a cosine to zero."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Selects the student's optimizer, adam or sgd."""
    weight_decay: float = 1e-4
    """Sets the weight decay of the student's optimizer, which is added to the gradient."""
    temperature: float = 20.0
    """Sets T of the student's KL divergence."""
    temperature_squared: bool = True
    """Multiplies the student's KL divergence by T squared, which keeps its gradient's size."""
    generator_learning_rate: float = 1e-3
    """Sets the generator's learning rate; it is constant."""
    z_dim: int = 256
    """Sets the noise vector's length."""
    adversarial_weight: NotNegative = 1.0
    """Weighs KL(teacher || student) at temperature 1, which the generator maximizes."""
    batch_norm_weight: NotNegative = 1.0
    """Weighs the BatchNorm distance, the term that matches the teacher's statistics."""
    one_hot_weight: NotNegative = 1.0
    """Weighs the one-hot loss, the cross-entropy with the teacher's own class as label, in nats."""
    entropy_weight: NotNegative = 20.0
    """Weighs the entropy of the mean prediction, in nats, which is maximized."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns small batches and a small generator for a short run."""
        return {"batch_size": 64, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Returns the same rate in every round."""
        return self.generator_learning_rate

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DfqSynthesizer:
        """Returns DFQ at work, with generator and optimizer on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm layer.
        """
        return DfqSynthesizer(self, teacher, accelerator, seed)


class DfqSynthesizer(GeneratorSynthesizer):
    """Runs DFQ."""

    method: Dfq

    def __init__(self, method: Dfq, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        assert isinstance(teacher, nn.Module), "hooks need a module"
        self.statistics = BatchNormStatistics(teacher, "dfq")
        super().__init__(method, teacher, accelerator, seed, output="pixels", betas=_BETAS)

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns BatchNorm distance + one-hot loss - entropy of the mean - disagreement, all weighted."""
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()

        figures["disagreement"] = kl(teacher_logits, view.student_logits())
        figures["batch_norm"] = self.statistics.loss()
        figures["one_hot"] = one_hot_loss(teacher_logits)
        figures["entropy"] = information_entropy(distributed.gather_rows(teacher_logits))

        loss = self.method.batch_norm_weight * figures["batch_norm"]
        loss = loss + self.method.one_hot_weight * figures["one_hot"]
        loss = loss - self.method.entropy_weight * figures["entropy"]
        return teacher_logits, loss - self.method.adversarial_weight * figures["disagreement"]
