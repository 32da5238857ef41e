"""Implements Data-Free Adversarial Distillation (DFAD; Fang et al., 2019, arXiv 1912.11006, algorithm 1).

Student and generator play a min-max game over the mean absolute difference of the logits. Unlike KL, this
difference keeps its gradient where student and teacher almost agree:

    min over S, max over G of  L1 = mean |T(G(z)) - S(G(z))|   over samples and classes.

In the paper, a round takes five steps of the student S, each on its own z. Then follows one step of the
generator G on -L1. Here the generator's step comes first in the next round. So the first round has no such
step, and the step after the last round, whose images no student would see, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from accelerate import Accelerator
from torch import Tensor

from abd_hub.core.contracts import Networks, Teacher, View
from abd_hub.core.registry import register
from abd_hub.learning.losses import l1_per_sample
from abd_hub.learning.schedules import cosine, stepped
from abd_hub.synthesis.generator_step import GeneratorMethod, GeneratorSynthesizer


@register("synthesizers", "dfad")
@dataclass(frozen=True, kw_only=True)
class Dfad(GeneratorMethod):
    """DFAD: generator and student play a min-max game over the difference of the logits."""

    citation: ClassVar[str] = """@misc{fang2019dfad,
  title  = {Data-Free Adversarial Distillation},
  author = {Fang, Gongfan and Song, Jie and Shen, Chengchao and Wang, Xinchao and Chen, Da and Song, Mingli},
  year   = {2019},
  note   = {arXiv:1912.11006}
}"""

    rounds: int = 25_000
    """Sets the number of rounds, each with one generator step (500 epochs of 50 in the paper)."""
    batch_size: int = 256
    """Sets the images per batch; the processes share them."""
    student_steps: int = 5
    """Sets the student steps per round; each draws its images anew."""
    learning_rate: float = 0.1
    """Sets the student's learning rate at the start."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Selects the student's optimizer, adam or sgd."""
    weight_decay: float = 5e-4
    """Sets the weight decay of the student's optimizer, which is added to the gradient."""
    learning_rate_drops: tuple[float, ...] = (0.2, 0.4)
    """Lists the shares of the rounds after which the rates of student and generator fall to a tenth. The
    paper has 100 and 200 of 500 epochs. Without any share both rates follow a cosine to zero."""
    loss: Literal["kl", "l1"] = "l1"
    """Selects the student's loss on the logits, kl or the paper's l1; the generator always uses l1."""
    temperature: float = 1.0
    """Sets T of the student's KL divergence, where ``loss`` is kl."""
    generator_learning_rate: float = 1e-3
    """Sets the generator's learning rate; it falls together with the student's rate."""
    z_dim: int = 256
    """Sets the noise vector's length."""

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns small batches and half the generator."""
        return {"batch_size": 64, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Returns the rate of the previous round, whose last step this is."""
        start, previous = self.generator_learning_rate, max(0, index - 1)
        if self.learning_rate_drops:
            return stepped(start, previous, self.rounds, self.learning_rate_drops)
        return cosine(start, previous, self.rounds)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DfadSynthesizer:
        """Returns DFAD at work, with generator and optimizer on the accelerator's device."""
        return DfadSynthesizer(self, teacher, accelerator, seed, output="standardized")


class DfadSynthesizer(GeneratorSynthesizer):
    """Runs DFAD."""

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Takes the generator's step that follows the previous round; the first round has none."""
        return super().update(networks) if self.index else {}

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns -L1(T, S) as the generator's loss."""
        teacher_logits = view.teacher_logits()
        figures["disagreement"] = l1_per_sample(teacher_logits, view.student_logits()).mean()
        return teacher_logits, -figures["disagreement"]
