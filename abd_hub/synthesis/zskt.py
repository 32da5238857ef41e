"""Zero-Shot Knowledge Transfer (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, algorithm 1).

A generator G draws images on which the student S disagrees most with the teacher T:
G minimizes -KL(T(G(z)) || S(G(z))), S minimizes KL(T(G(z)) || S(G(z))) + 250 * attention transfer.

The paper's loop draws z once a round, takes one generator step and then ten student steps on the same z.
G does not change between the student steps, so the images and the teacher's answers are computed once:
per image of a round about 1600 instead of 6000 MMAC for WRN-16-2 -> WRN-16-1, with the same result.
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
    """Pseudo-batches in all: one generator step and ``student_steps`` student steps each."""
    batch_size: int = 128
    """Images in a pseudo-batch, over all processes together."""
    student_steps: int = 10
    """Student steps on each pseudo-batch."""
    learning_rate: float = 2e-3
    """Of the student's Adam at the start; cosine to zero."""
    clip_norm: float = 5.0
    """Largest gradient norm of student and generator; 0 switches clipping off."""
    temperature: float = 1.0
    """Of the student's KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 250.0
    """Weight of attention transfer; 0 where teacher and student have no matching blocks."""
    generator_learning_rate: float = 1e-3
    """Of the generator's Adam at the start; cosine to zero."""
    z_dim: int = 100
    """Length of the noise vector."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """A short run takes a small generator, and no attention transfer, which needs matching blocks."""
        return {"batch_size": 64, "attention_weight": 0, "generator_channels": 64}

    def generator_rate(self, index: int) -> float:
        """Cosine to zero."""
        return cosine(self.generator_learning_rate, index, self.rounds)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> ZsktSynthesizer:
        """The generator with its optimizer, on the accelerator's device."""
        return ZsktSynthesizer(self, teacher, accelerator, seed)


class ZsktSynthesizer(GeneratorSynthesizer):
    """ZSKT at work."""

    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-KL(T || S)."""
        teacher_logits = view.teacher_logits()
        figures["disagreement"] = kl(teacher_logits, view.student_logits())
        return teacher_logits, -figures["disagreement"]

    def sample(self, step: int) -> Tensor | None:
        """The images of the updated generator, the same for every student step of the round."""
        return None if step else self.fixed_pixels(self.noise)
