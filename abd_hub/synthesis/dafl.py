"""Implements Data-Free Learning of Student Networks (DAFL; Chen et al., ICCV 2019, arXiv 1904.01186).

A generator G draws images to which the teacher T answers as it does to its training images. T is sure of one
class, its features are strong, and every class is equally frequent in a batch. Let p = softmax(T(x)), q the
mean prediction over the batch, and f the input of T's last linear layer. G minimizes

    0.05 * CE(p, argmax p) - 5 / ln 10 * H(q) - 0.01 * mean |f|,   H(q) = - sum_c q_c ln q_c.

G and the student S learn at the same time: S minimizes KL(T(x) || S(x)) on the images of G's own step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from accelerate import Accelerator
from torch import Tensor

from abd_hub.core.contracts import Teacher, View
from abd_hub.core.registry import register
from abd_hub.core.settings import NotNegative
from abd_hub.learning import distributed
from abd_hub.learning.losses import information_entropy, mean_magnitude, one_hot_loss
from abd_hub.synthesis.generator_step import GeneratorMethod, GeneratorSynthesizer
from abd_hub.synthesis.last_linear import LastLinear


@register("synthesizers", "dafl")
@dataclass(frozen=True, kw_only=True)
class Dafl(GeneratorMethod):
    """DAFL: a generator seeks images of which the teacher is sure, with all classes equally frequent."""

    citation: ClassVar[str] = """@inproceedings{chen2019dafl,
  title     = {Data-Free Learning of Student Networks},
  author    = {Chen, Hanting and Wang, Yunhe and Xu, Chang and Yang, Zhaohui and Liu, Chuanjian and
               Shi, Boxin and Xu, Chunjing and Xu, Chao and Tian, Qi},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  note      = {arXiv:1904.01186}
}"""

    rounds: int = 240_000
    """Sets the generator steps in all (2000 epochs of 120 in the paper), each with ``student_steps``."""
    batch_size: int = 1024
    """Sets the images per batch; the processes share them."""
    student_steps: int = 1
    """Sets the student steps per batch."""
    learning_rate: float = 0.1
    """Sets the student's learning rate at the start."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Selects the student's optimizer, adam or sgd."""
    weight_decay: float = 5e-4
    """Sets the weight decay of the student's optimizer, which is added to the gradient."""
    learning_rate_drops: tuple[float, ...] = (0.4, 0.8)
    """Lists the shares of the rounds after which the student's rate falls to a tenth. The paper has 800 and
    1600 of 2000 epochs. Without any share the rate follows a cosine to zero."""
    temperature: float = 1.0
    """Sets T of the student's KL divergence."""
    generator_learning_rate: float = 0.02
    """Sets the generator's learning rate; it is constant, as in the authors' command for CIFAR."""
    z_dim: int = 1000
    """Sets the noise vector's length."""
    one_hot_weight: NotNegative = 0.05
    """Weighs the one-hot loss, the cross-entropy with the teacher's own class as label, in nats."""
    entropy_weight: NotNegative = 5 / math.log(10)
    """Weighs the entropy of the mean prediction, in nats, which is maximized. The authors' 5 counts decimal
    digits (log10) and becomes 5 / ln 10 = 2.17 here."""
    activation_weight: NotNegative = 0.01
    """Weighs the mean magnitude of the inputs of the teacher's last linear layer, which is maximized. Set 0
    for a teacher without such a layer."""

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns an eighth of the batch and half the generator."""
        return {"batch_size": 128, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Returns the same rate in every round."""
        return self.generator_learning_rate

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DaflSynthesizer:
        """Returns DAFL at work, with generator and optimizer on the accelerator's device.

        Raises:
            InputError: ``activation_weight`` is positive, and no linear layer gives the teacher's logits.
        """
        return DaflSynthesizer(self, teacher, accelerator, seed)


class DaflSynthesizer(GeneratorSynthesizer):
    """Runs DAFL."""

    method: Dafl

    def __init__(self, method: Dafl, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        self.last_linear = LastLinear(teacher, "dafl") if method.activation_weight else None
        self.kept: Tensor | None = None
        """Holds the pixels of this round's generator step, detached."""
        super().__init__(method, teacher, accelerator, seed, output="standardized")

    def begin_round(self, index: int) -> None:
        """Draws z for the global batch and drops the images of the previous round."""
        super().begin_round(index)
        self.kept = None

    def generate(self) -> Tensor:
        """Returns the round's images and keeps them as they are before the generator's step."""
        pixels = super().generate()
        self.kept = pixels.detach()
        return pixels

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns one-hot loss - entropy of the mean prediction - magnitude of the features."""
        if self.last_linear is None:
            teacher_logits, magnitude = view.teacher_logits(), view.pixels.new_zeros(())
        else:
            with self.last_linear.recording() as features:
                teacher_logits = view.teacher_logits()
            magnitude = mean_magnitude(features[-1])

        figures["one_hot"] = one_hot_loss(teacher_logits)
        figures["entropy"] = information_entropy(distributed.gather_rows(teacher_logits))
        figures["activation"] = magnitude

        loss = self.method.one_hot_weight * figures["one_hot"]
        loss = loss - self.method.entropy_weight * figures["entropy"]
        return teacher_logits, loss - self.method.activation_weight * magnitude

    def sample(self, step: int) -> Tensor | None:
        """Returns the images of the generator's step in the first student step, None in the others."""
        if step:
            return None
        return self.fixed_pixels(self.noise) if self.kept is None else self.kept
