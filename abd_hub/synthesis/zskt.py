"""Implements Zero-Shot Knowledge Transfer (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, algorithm 1).

A generator G draws images on which the student S disagrees most with the teacher T:

    G minimizes -KL(T(G(z)) || S(G(z))),
    S minimizes  KL(T(G(z)) || S(G(z))) + 250 * attention transfer.

The paper's loop draws z once a round, takes one generator step and then ten student steps on the same z. G
does not change between the student steps, so images and teacher's answers are computed once. With the same
result, a round of WRN-16-2 -> WRN-16-1 costs about 1600 instead of 6000 MMAC an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from accelerate import Accelerator
from torch import Tensor

from abd_hub.core.contracts import Teacher, View
from abd_hub.core.registry import register
from abd_hub.learning.losses import kl
from abd_hub.learning.schedules import cosine
from abd_hub.synthesis.generator_step import GeneratorMethod, GeneratorSynthesizer


@register("synthesizers", "zskt")
@dataclass(frozen=True, kw_only=True)
class Zskt(GeneratorMethod):
    """Zero-Shot Knowledge Transfer: a generator seeks images on which student and teacher disagree."""

    citation: ClassVar[str] = """@inproceedings{micaelli2019zeroshot,
  title     = {Zero-shot Knowledge Transfer via Adversarial Belief Matching},
  author    = {Micaelli, Paul and Storkey, Amos},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  note      = {arXiv:1905.09768}
}"""

    rounds: int = 80_000
    """Sets the number of pseudo-batches, each with one generator step and ``student_steps``."""
    batch_size: int = 128
    """Sets the images per pseudo-batch; the processes share them."""
    student_steps: int = 10
    """Sets the student steps per batch; all see the same images."""
    learning_rate: float = 2e-3
    """Sets the student's learning rate; from here it follows a cosine to zero."""
    clip_norm: float = 5.0
    """Limits the gradient norms of student and generator; 0 switches clipping off."""
    temperature: float = 1.0
    """Sets T of the KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 250.0
    """Weighs attention transfer. Set 0 where teacher and student have no matching blocks."""
    generator_learning_rate: float = 1e-3
    """Sets the generator's learning rate; from here it follows a cosine to zero."""
    z_dim: int = 100
    """Sets the noise vector's length."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns small sizes for a short run, without attention transfer, which needs matching blocks."""
        return {"batch_size": 64, "attention_weight": 0, "generator_channels": 64}

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns half the batch, the student's steps and the generator."""
        return {"batch_size": 64, "student_steps": 5, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Returns a rate that follows a cosine to zero."""
        return cosine(self.generator_learning_rate, index, self.rounds)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> ZsktSynthesizer:
        """Returns ZSKT at work, with generator and optimizer on the accelerator's device."""
        return ZsktSynthesizer(self, teacher, accelerator, seed)


class ZsktSynthesizer(GeneratorSynthesizer):
    """Runs ZSKT."""

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns -KL(T || S) as the generator's loss."""
        teacher_logits = view.teacher_logits()
        figures["disagreement"] = kl(teacher_logits, view.student_logits())
        return teacher_logits, -figures["disagreement"]

    def sample(self, step: int) -> Tensor | None:
        """Returns images of the updated generator in the first student step, None in the others."""
        return None if step else self.fixed_pixels(self.noise)
