"""Universal direction makes the student blind to the one direction in pixel space that changes it most.

This defense is not from the ABD paper. It comes from small images, on which the paper's two defenses only
weakened an inherited backdoor. A patch trigger is an unusually strong universal adversarial perturbation
(Moosavi-Dezfooli et al., CVPR 2017, arXiv 1610.08401). The student finds it in the images that the generator
draws: without the trigger's place, half of the target class's synthetic images leave their class.

The search runs once, when the last part of the run begins, for each class c on recent synthetic images x:

    delta_c = argmin over |delta| <= epsilon of mean CE(S(x + delta), c)       (normalized gradient steps)
    c* = the class that delta_c reaches best from images of other classes
    u = delta_c* without its small entries (below ``threshold`` times the largest), of unit length.

The small entries carry the meaning of the class, so their removal would cost accuracy. From then on, every
image loses its component along u, for teacher, student and generator: P(x) = x - <x, u> u. On half of the
images, the student sees a random amount of u on top, a ~ U(-amplitude, amplitude). Its goal is still the
teacher's answer to P(x), so it learns to ignore u. The finished student is an ordinary network.

The limits were measured on 8x8 digits. With the vaccine, the ASR of a white 2x2 patch fell from 0.99 to 0.003
(means of three seeds). A 20 % blend over the whole image is no single sparse direction, and the search
selected the wrong class. Its ASR fell from 1.00 to 0.88, the accuracy from 0.81 to 0.63 (a prototype, one
seed). The defense is untested above 8x8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import Defense, DefensePlugin, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.evidence import Evidence
from abd_hub.core.records import DataSpec, DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, Positive, Share
from abd_hub.learning import distributed
from abd_hub.learning.modes import in_eval_mode

STANDS_OUT = 0.1
"""Excess of a class's flip rate over the next class's, from which it is said to stand out. It changes only a
sentence. Two runs that found the right class had excesses of 0.13 and 0.20. No clean teacher was measured."""


@register("defenses", "universal_direction")
@dataclass(frozen=True, kw_only=True)
class UniversalDirection(Defense, place="universal_direction"):
    """Universal direction: removes the strongest class-wide perturbation from the student's images."""

    begin: Share = 0.67
    """Sets the share of the rounds after which the direction is searched for and used."""
    batches: Count = 8
    """Searches on this many of the latest pseudo-batches."""
    epsilon: Positive = 1.5
    """Limits the L2 norm of a perturbation, in pixel units over all channels and pixels."""
    steps: Count = 40
    """Sets the number of gradient steps on the perturbations of all classes."""
    step_images: Count = 160
    """Sets the number of images in a step, which the classes share."""
    threshold: Share = 0.5
    """Drops entries of the direction below this share of the largest one."""
    amplitude: Positive = 4.0
    """Limits the amount of the direction that the student sees, in pixel units."""
    share: Share = 0.5
    """Sets the share of the images on which the student sees some of the direction."""

    def build(self, teacher: Teacher, seed: int = 0) -> Direction:
        """Returns the defense at work; a loop of your own must call its ``begin_round``.

        Args:
            teacher: only its ``spec`` is read.
            seed: seed of the search and of the amounts.

        Raises:
            InputError: a step has fewer images than the teacher has classes.
        """
        classes = teacher.spec.num_classes
        if self.step_images < classes:
            raise InputError(
                f"universal_direction.step_images: {self.step_images} images leave some of the teacher's "
                f"{classes} classes without one; use {classes} or more"
            )
        return Direction(self, teacher.spec, seed)


class Direction(DefensePlugin):
    """Collects images, searches for the direction once, then filters images with it."""

    name = "universal_direction"

    def __init__(self, settings: UniversalDirection, spec: DataSpec, seed: int) -> None:
        self.settings = settings
        self.spec = spec
        self.seed = seed
        self.recent: list[Tensor] = []
        """Holds the latest batches before the search, each (N, C, H, W)."""
        self.direction: Tensor | None = None
        """Holds u, (C, H, W), of unit length; None before the search."""
        self.flips: list[float] = []
        """Holds, by class, the share of other classes' images that its perturbation turns into it."""
        self.left: float | None = None
        """Holds the same share for the removed class, once its perturbation has lost its part along u. None
        in checkpoints from before it was measured."""
        self.views = 0
        self._first = True

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Searches for the direction in the first round of the last part."""
        self._first = True
        if self.direction is None and self.recent and index >= int(self.settings.begin * rounds):
            with in_eval_mode(student):
                self.direction = self.search(student, torch.cat(self.recent))
            self.recent = []

    def drawn(self, pixels: Tensor) -> Tensor:
        """Returns P(x) = x - <x, u> u once u is known; until then, stores the latest batches unchanged."""
        if self.direction is None:
            self._remember(pixels.detach())
            return pixels

        return _without(pixels, self.direction.to(pixels))

    def student_view(self, pixels: Tensor) -> Tensor:
        """Returns x + a u, a ~ U(-amplitude, amplitude), on a share of the images; each call draws again."""
        if self.direction is None:
            return pixels

        draws = seeding.generator(self.seed, "universal_direction", self.views, seeding.LEGACY_RANK)
        images = pixels.shape[0] * distributed.world()[1]
        amounts, selector = distributed.own_rows(torch.rand(2, images, 1, 1, 1, generator=draws), dim=1)
        amounts = (2 * amounts - 1) * self.settings.amplitude * (selector < self.settings.share)

        self.views += 1
        seen: Tensor = pixels + amounts.to(pixels) * self.direction.to(pixels)
        return seen

    def search(self, student: nn.Module, images: Tensor) -> Tensor:
        """Returns u, (C, H, W), of unit length, and stores the flip rates of the classes.

        Args:
            student: from pixels to logits, in eval mode; its weights get no gradient.
            images: (n, C, H, W) synthetic pixels.
        """
        perturbations = self._class_perturbations(student, images)
        self.flips = self._flip_rates(student, images, enumerate(perturbations))

        best = self._best()
        strongest = perturbations[best]
        kept: Tensor = strongest * (strongest.abs() >= self.settings.threshold * strongest.abs().max())
        unit: Tensor = kept / kept.norm()

        # The network sees P(x + delta), and the difference to P(x) is P(delta).
        rest = strongest - (strongest * unit).sum() * unit
        (self.left,) = self._flip_rates(student, _without(images, unit), [(best, rest)])
        return unit

    def _best(self) -> int:
        """Returns the class with the largest flip rate."""
        return max(range(len(self.flips)), key=self.flips.__getitem__)

    def _class_perturbations(self, student: nn.Module, images: Tensor) -> Tensor:
        """Returns one perturbation a class, (classes, C, H, W), each at most epsilon long."""
        settings, classes = self.settings, self.spec.num_classes
        draws = seeding.generator(self.seed, "universal_direction search")
        start = 0.1 * torch.randn(classes, *images.shape[1:], generator=draws)
        deltas = _at_most(start.to(images), settings.epsilon)
        goals = (torch.arange(settings.step_images) % classes).to(images.device)

        for step in range(settings.steps):
            places = torch.randint(images.shape[0], (settings.step_images,), generator=draws)
            deltas.requires_grad_()
            loss = F.cross_entropy(student(images[places.to(images.device)] + deltas[goals]), goals)
            (gradient,) = torch.autograd.grad(loss, [deltas])
            distributed.average_([gradient])

            rate = 0.3 * (1 - step / settings.steps) * settings.epsilon
            lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            deltas = _at_most((deltas - rate * gradient / lengths).detach(), settings.epsilon)

        return deltas

    @torch.no_grad()
    def _flip_rates(
        self, student: nn.Module, images: Tensor, deltas: Iterable[tuple[int, Tensor]]
    ) -> list[float]:
        """Returns a rate for each pair of a class and its perturbation, (C, H, W)."""
        before = student(images).argmax(dim=1)
        rates = []
        for goal, delta in deltas:
            others = before != goal
            reached = (student(images + delta).argmax(dim=1) == goal) & others
            counts = torch.stack([reached.sum(), others.sum()]).double()
            distributed.average_([counts])
            rates.append(float(counts[0] / counts[1].clamp(min=1)))
        return rates

    def _remember(self, pixels: Tensor) -> None:
        # A round may draw twice, before and after the generator's step. Every process holds the images of all
        # processes, so the state saved by one of them is complete.
        if self._first:
            self.recent = [*self.recent, distributed.gather_rows(pixels)][-self.settings.batches :]
            self._first = False

    def report(self) -> DefenseReport:
        """Reports the class whose perturbation was removed, all flip rates, and the direction's sparsity."""
        if self.direction is None:
            return DefenseReport(self.name, False, "the direction has not been sought yet")

        best, entries = self._best(), int((self.direction != 0).sum())
        facts = {
            "class": best,
            "flip_rates": self.flips,
            "flip_rate_after_removal": self.left,
            "entries": entries,
            "student_steps": self.views,
        }
        return DefenseReport(self.name, self.views > 0, self._detail(best, entries), facts)

    def _detail(self, best: int, entries: int) -> str:
        """Returns the rates before and after the removal, which say nothing about a trigger."""
        name, rate = self.spec.labels[best], self.flips[best]
        following = max((one for label, one in enumerate(self.flips) if label != best), default=0.0)
        found = f"class {name} stands out" if rate - following >= STANDS_OUT else "no class stands out"
        left = "an unknown share" if self.left is None else f"{self.left:.0%}"
        return (
            f"{found}: a perturbation towards {name} turned {rate:.0%} of other synthetic images "
            f"(the next class {following:.0%}), "
            f"and {left} once its direction of {entries} entries was taken out"
        )

    def evidence(self, images: Tensor) -> Evidence | None:
        """Returns u, of unit length."""
        return None if self.direction is None else Evidence(pattern=self.direction)

    def state_dict(self) -> dict[str, Any]:
        """Returns the images before the search, and the direction after it."""
        return {
            "recent": list(self.recent),
            "direction": self.direction,
            "flips": self.flips,
            "left": self.left,
            "views": self.views,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``."""
        self.recent = state["recent"]
        self.direction = state["direction"]
        self.flips = state["flips"]
        self.left = state.get("left")
        self.views = state["views"]


def _without(pixels: Tensor, direction: Tensor) -> Tensor:
    """Returns P(x), (N, C, H, W), without the component along a direction of unit length, (C, H, W)."""
    along: Tensor = (pixels * direction).sum((1, 2, 3), keepdim=True)
    projected: Tensor = pixels - along * direction
    return projected


def _at_most(deltas: Tensor, length: float) -> Tensor:
    """Scales each (C, H, W) back to ``length`` if it is longer."""
    norms: Tensor = deltas.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return deltas * (length / norms.clamp(min=1e-12)).clamp(max=1.0)
