"""Data-Free Adversarial Distillation (DFAD; Fang et al., 2019, arXiv 1912.11006, algorithm 1).

A min-max game over the mean absolute difference of the logits, which unlike KL keeps its gradient where
student and teacher almost agree:

    min over S, max over G of  L1 = mean |T(G(z)) - S(G(z))|   over samples and classes.

A round is five steps of the student S, each on its own z, and then one step of the generator G on -L1. Here
the generator's step stands at the beginning of the next round: the first round has none, and the step that
would follow the last round, which no student would see, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    """DFAD: a min-max game of generator and student over the difference of the logits."""

    citation: ClassVar[str] = """@misc{fang2019dfad,
  title  = {Data-Free Adversarial Distillation},
  author = {Fang, Gongfan and Song, Jie and Shen, Chengchao and Wang, Xinchao and Chen, Da and Song, Mingli},
  year   = {2019},
  note   = {arXiv:1912.11006}
}"""

    rounds: int = 25_000
    """Rounds of ``student_steps`` student steps and a generator step (the paper: 500 epochs of 50)."""
    batch_size: int = 256
    """Images in a batch, over all processes together."""
    student_steps: int = 5
    """Student steps in a round, each on images drawn anew."""
    learning_rate: float = 0.1
    """Of the student's SGD at the start."""
    optimizer: Literal["adam", "sgd"] = "sgd"
    """Of the student: adam or sgd."""
    weight_decay: float = 5e-4
    """Of the student's optimizer, added to the gradient."""
    learning_rate_drops: tuple[float, ...] = (0.2, 0.4)
    """Shares of the rounds after which the rates of student and generator fall to a tenth (the paper: 100 and
    200 of 500 epochs); without any both follow a cosine to zero."""
    loss: Literal["kl", "l1"] = "l1"
    """Of the student on the logits: kl or l1, as the paper has it; the generator's is always l1."""
    temperature: float = 1.0
    """Of the student's KL divergence, where ``loss`` is kl."""
    generator_learning_rate: float = 1e-3
    """Of the generator's Adam at the start; falls together with the student's."""
    z_dim: int = 256
    """Length of the noise vector."""

    def generator_rate(self, index: int) -> float:
        """That of the round before, whose last step this is."""
        start, before = self.generator_learning_rate, max(0, index - 1)
        if self.learning_rate_drops:
            return stepped(start, before, self.rounds, self.learning_rate_drops)
        return cosine(start, before, self.rounds)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DfadSynthesizer:
        """The generator with its optimizer, on the accelerator's device."""
        return DfadSynthesizer(self, teacher, accelerator, seed, output="standardized")


class DfadSynthesizer(GeneratorSynthesizer):
    """DFAD at work."""

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """The generator's step after the student's steps of the round before; none in the first round."""
        return super().update(networks) if self.index else {}

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-L1(T, S)."""
        teacher_logits = view.teacher_logits()
        figures["disagreement"] = l1_per_sample(teacher_logits, view.student_logits()).mean()
        return teacher_logits, -figures["disagreement"]
