"""Defenses against inherited backdoors, one file each. None can see a trigger or evaluation data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from abd_hub.core.contracts import Batch, DefensePlugin


class Combined(DefensePlugin):
    """Several defenses as one, in their order; none at all does nothing."""

    name = "combined"

    def __init__(self, parts: Sequence[DefensePlugin]) -> None:
        self.parts = parts

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Passed on to each."""
        for part in self.parts:
            part.begin_round(index, rounds, student)

    def penalty(self, pixels: Tensor, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """The sum."""
        total = teacher_logits.new_zeros(())
        for part in self.parts:
            total = total + part.penalty(pixels, teacher_logits, finished)
        return total

    def sample_weights(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor | None:
        """The product, each relative to the mean's 1/N; None where no part gives any."""
        total: Tensor | None = None
        for part in self.parts:
            weights = part.sample_weights(pixels, teacher_logits)
            if weights is not None:
                total = weights if total is None else total * weights * pixels.shape[0]
        return total

    def drawn(self, pixels: Tensor) -> Tensor:
        """One after the other."""
        for part in self.parts:
            pixels = part.drawn(pixels)
        return pixels

    def student_view(self, pixels: Tensor) -> Tensor:
        """One after the other."""
        for part in self.parts:
            pixels = part.student_view(pixels)
        return pixels

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Passed on to each."""
        for part in self.parts:
            part.add_gradients(student, batch)
