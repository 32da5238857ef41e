"""Defenses against inherited backdoors, one file each. None of them sees a trigger or evaluation data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from abd_hub.core.contracts import Batch, DefensePlugin


class Combined(DefensePlugin):
    """Runs several defenses as one, in their order; without any it does nothing."""

    name = "combined"

    def __init__(self, parts: Sequence[DefensePlugin]) -> None:
        self.parts = parts

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Begins the round in each defense."""
        for part in self.parts:
            part.begin_round(index, rounds, student)

    def penalty(self, pixels: Tensor, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """Returns the sum of all penalties."""
        total = teacher_logits.new_zeros(())
        for part in self.parts:
            total = total + part.penalty(pixels, teacher_logits, finished)
        return total

    def sample_weights(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor | None:
        """Returns the product of the weights, each relative to the mean's 1/N; None without any."""
        total: Tensor | None = None
        for part in self.parts:
            weights = part.sample_weights(pixels, teacher_logits)
            if weights is not None:
                total = weights if total is None else total * weights * pixels.shape[0]
        return total

    def drawn(self, pixels: Tensor) -> Tensor:
        """Applies ``drawn`` of one defense after the other."""
        for part in self.parts:
            pixels = part.drawn(pixels)
        return pixels

    def student_view(self, pixels: Tensor) -> Tensor:
        """Applies ``student_view`` of one defense after the other."""
        for part in self.parts:
            pixels = part.student_view(pixels)
        return pixels

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds the gradients of each defense."""
        for part in self.parts:
            part.add_gradients(student, batch)
