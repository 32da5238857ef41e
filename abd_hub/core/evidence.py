"""Holds what a defense leaves for the pictures of a finished run, see ``DefensePlugin.evidence``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """Measures how far a teacher's shuffled copies lie from it on synthetic images; one entry an image."""

    kl: tuple[float, ...]
    """KL(T || T~) in nats."""
    suspicious: tuple[bool, ...]
    """Whether the copies still give the teacher's class; the vaccine's penalty acts on these images."""
    threshold: float
    """Mean - 3 std of log10 KL, as a divergence in nats; the vaccine check counts the images below it."""
    judged: bool
    """True for the threshold that the check used, False for one computed from these very images."""
    draw: int
    """Number of the draw of permutations."""
    used: bool
    """Whether the run used this draw; False where the check refused it or never decided."""

    @property
    def warns(self) -> bool:
        """Whether a suspicious image deserves a warning: the check accepted the draw, and the run used it.

        Without that, copies of any clean teacher agree with it on some images.
        """
        return self.judged and self.used


@dataclass(frozen=True)
class Evidence:
    """Holds a defense's findings for the pictures of a finished run."""

    divergence: Divergence | None = None
    pattern: Tensor | None = None
    """(C, H, W) in pixel units, a perturbation or direction that the defense found."""
