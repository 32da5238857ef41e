"""Adversarial distillation of DFQ (Choi et al., CVPRW 2020, arXiv 2005.04136).

A generator G draws images on which the student S disagrees with the teacher T, held near the teacher's
training images by three further terms. With p = softmax(T(x)) and its mean q over the batch, G minimizes

    -KL(T(x) || S(x)) + R(x) + CE(p, argmax p) - 20 * H(q),   H(q) = - sum_c q_c ln q_c,

R the distance to the statistics of T's BatchNorm layers (see ``batch_norm``). One generator step, then ten
student steps, each on images drawn anew.

Forms and figures are those of the baseline in the code of CMI (arXiv 2105.08584) and Fast (arXiv 2112.06253).
R has norms where the paper has the divergence of two Gaussians, the cross-entropy stands for the entropy of
each prediction, and there is neither a warm-up of the generator alone nor more than one generator. In that
code the generator is handed the teacher in the student's place, which leaves nothing to disagree about: here,
as in the paper, it is the student.
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
"""Of the generator's Adam, as the baseline has them."""


@register("synthesizers", "dfq")
@dataclass(frozen=True, kw_only=True)
class Dfq(GeneratorMethod):
    """DFQ: adversarial images that match the teacher's BatchNorm statistics and show all classes alike."""

    citation: ClassVar[str] = """@inproceedings{choi2020dfq,
  title     = {Data-Free Network Quantization With Adversarial Knowledge Distillation},
  author    = {Choi, Yoojin and Choi, Jihwan and El-Khamy, Mostafa and Lee, Jungwon},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2020},
  note      = {arXiv:2005.04136}
}"""

    rounds: int = 8_000
    """Rounds of one generator step and ``student_steps`` student steps (200 epochs of 400 student steps)."""
    batch_size: int = 256
    """Images in a batch, over all processes together."""
    student_steps: int = 10
    """Student steps in a round, each on images drawn anew."""
    learning_rate: float = 0.1
    """Of the student's SGD at the start; cosine to zero."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Of the student: adam or sgd."""
    weight_decay: float = 1e-4
    """Of the student's optimizer, added to the gradient."""
    temperature: float = 20.0
    """Of the student's KL divergence."""
    temperature_squared: bool = True
    """Multiply the student's KL divergence by T squared, which keeps its gradient's size."""
    generator_learning_rate: float = 1e-3
    """Of the generator's Adam, constant."""
    z_dim: int = 256
    """Length of the noise vector."""
    adversarial_weight: NotNegative = 1.0
    """Weight of KL(teacher || student) at temperature 1, which the generator maximizes."""
    batch_norm_weight: NotNegative = 1.0
    """Weight of the distance to the teacher's BatchNorm statistics."""
    one_hot_weight: NotNegative = 1.0
    """Weight of the cross-entropy with the teacher's own class as label, in nats."""
    entropy_weight: NotNegative = 20.0
    """Weight of the entropy of the mean prediction, which is maximized, in nats."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """A short run takes small batches and a small generator."""
        return {"batch_size": 64, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Constant."""
        return self.generator_learning_rate

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DfqSynthesizer:
        """The generator with its optimizer, on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm layer.
        """
        return DfqSynthesizer(self, teacher, accelerator, seed)


class DfqSynthesizer(GeneratorSynthesizer):
    """DFQ at work."""

    method: Dfq

    def __init__(self, method: Dfq, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        assert isinstance(teacher, nn.Module), "hooks need a module"
        self.statistics = BatchNormStatistics(teacher, "dfq")
        super().__init__(method, teacher, accelerator, seed, output="pixels", betas=_BETAS)

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Adversarial + BatchNorm statistics + one-hot - entropy of the mean prediction."""
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
