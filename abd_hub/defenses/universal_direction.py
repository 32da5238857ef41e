"""Universal direction: blind the student to the one direction in pixel space that moves it most.

Not from the ABD paper; it was found on small images while asking why perturbation and vaccine only dent an
inherited backdoor. A patch trigger is a universal adversarial perturbation (Moosavi-Dezfooli et al., CVPR
2017, arXiv 1610.08401) of unusual strength, and the student finds it in the images that the generator
draws: blanking the trigger's place takes half of the target class's synthetic images out of their class.

Once, when the last part of the run begins, for each class c on recent synthetic images x:

    delta_c = argmin over |delta| <= epsilon of mean CE(S(x + delta), c)       (normalized gradient steps)
    c* = the class that delta_c reaches best from images of other classes
    u = delta_c* without its small entries (below ``threshold`` times the largest), of unit length.

The small entries carry the meaning of the class and would cost accuracy. From then on every image loses
its share of u, for teacher, student and generator: P(x) = x - <x, u> u. The student moreover sees a random
amount of u, a ~ U(-amplitude, amplitude) on half of the images, and still has to give the teacher's answer
to P(x): u stops meaning anything to it. The finished student is an ordinary network.

Limits, measured on 8x8 digits: a white 2x2 patch fell from ASR 0.99 to 0.003 (means of three seeds, with the
vaccine). A 20 % blend over the whole image is no single sparse direction: the wrong class was chosen, ASR
1.00 to 0.88 at accuracy 0.81 to 0.63 (a prototype, one seed). Untried above 8x8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import Defense, DefensePlugin, Evidence, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec, DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, Positive, Share
from abd_hub.learning import distributed
from abd_hub.learning.modes import in_eval_mode


@register("defenses", "universal_direction")
@dataclass(frozen=True, kw_only=True)
class UniversalDirection(Defense, place="universal_direction"):
    """Universal direction: takes the strongest class-wide perturbation out of what the student learns."""

    begin: Share = 0.67
    """Share of the rounds after which the direction is sought and used."""
    batches: Count = 8
    """Latest pseudo-batches on which it is sought."""
    epsilon: Positive = 1.5
    """Largest L2 norm of a perturbation, in pixel units over all channels and pixels."""
    steps: Count = 40
    """Gradient steps on the perturbations of all classes."""
    step_images: Count = 160
    """Images of a step, shared by the classes."""
    threshold: Share = 0.5
    """Entries below this share of the largest are dropped."""
    amplitude: Positive = 4.0
    """Largest amount of the direction that the student sees, in pixel units."""
    share: Share = 0.5
    """Share of the images on which it sees some."""

    def build(self, teacher: Teacher, seed: int = 0) -> Direction:
        """The defense at work. A loop of one's own must call ``begin_round``.

        Args:
            teacher: only its ``spec`` is read.
            seed: of the search and of the amounts.
        """
        if self.step_images < teacher.spec.num_classes:
            raise InputError(
                f"universal_direction.step_images: {self.step_images} images leave some of the teacher's "
                f"{teacher.spec.num_classes} classes without one; use at least that many"
            )
        return Direction(self, teacher.spec, seed)


class Direction(DefensePlugin):
    """At work: collects images, seeks the direction once, then filters images with it."""

    name = "universal_direction"

    def __init__(self, settings: UniversalDirection, spec: DataSpec, seed: int) -> None:
        self.settings = settings
        self.spec = spec
        self.seed = seed
        self.recent: list[Tensor] = []
        """Latest batches before the search, each (N, C, H, W)."""
        self.direction: Tensor | None = None
        """u, (C, H, W), unit length; None before the search."""
        self.flips: list[float] = []
        """By class: share of other classes' images that its perturbation turns into it."""
        self.views = 0
        self._first = True

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Seeks the direction in the round with which the last part begins."""
        self._first = True
        if self.direction is None and self.recent and index >= int(self.settings.begin * rounds):
            with in_eval_mode(student):
                self.direction = self.search(student, torch.cat(self.recent))
            self.recent = []

    def drawn(self, pixels: Tensor) -> Tensor:
        """P(x) = x - <x, u> u once the direction is known; keeps the latest batches until then."""
        if self.direction is None:
            self._remember(pixels.detach())
            return pixels
        direction = self.direction.to(pixels)
        along: Tensor = (pixels * direction).sum((1, 2, 3), keepdim=True)
        projected: Tensor = pixels - along * direction
        return projected

    def student_view(self, pixels: Tensor) -> Tensor:
        """x + a u with a ~ U(-amplitude, amplitude) on a share of the images, drawn anew at each call."""
        if self.direction is None:
            return pixels
        chance = seeding.generator(self.seed, "universal_direction", self.views, seeding.LEGACY_RANK)
        images = pixels.shape[0] * distributed.world()[1]
        amounts, hit = distributed.own_rows(torch.rand(2, images, 1, 1, 1, generator=chance), dim=1)
        amounts = (2 * amounts - 1) * self.settings.amplitude * (hit < self.settings.share)
        self.views += 1
        seen: Tensor = pixels + amounts.to(pixels) * self.direction.to(pixels)
        return seen

    def search(self, student: nn.Module, images: Tensor) -> Tensor:
        """u, (C, H, W), unit length.

        Args:
            student: from pixels to logits, in eval mode; its weights get no gradient.
            images: (n, C, H, W) synthetic pixels.
        """
        perturbations = self._class_perturbations(student, images)
        self.flips = self._flip_rates(student, images, perturbations)
        strongest = perturbations[max(range(len(self.flips)), key=self.flips.__getitem__)]
        kept: Tensor = strongest * (strongest.abs() >= self.settings.threshold * strongest.abs().max())
        unit: Tensor = kept / kept.norm()
        return unit

    def _class_perturbations(self, student: nn.Module, images: Tensor) -> Tensor:
        """(classes, C, H, W), each at most epsilon long."""
        settings, classes = self.settings, self.spec.num_classes
        chance = seeding.generator(self.seed, "universal_direction search")
        start = 0.1 * torch.randn(classes, *images.shape[1:], generator=chance)
        deltas = _at_most(start.to(images), settings.epsilon)
        goals = (torch.arange(settings.step_images) % classes).to(images.device)

        for step in range(settings.steps):
            chosen = torch.randint(images.shape[0], (settings.step_images,), generator=chance)
            deltas.requires_grad_()
            loss = F.cross_entropy(student(images[chosen.to(images.device)] + deltas[goals]), goals)
            (gradient,) = torch.autograd.grad(loss, [deltas])
            distributed.average_([gradient])
            rate = 0.3 * (1 - step / settings.steps) * settings.epsilon
            lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            deltas = _at_most((deltas - rate * gradient / lengths).detach(), settings.epsilon)
        return deltas

    @torch.no_grad()
    def _flip_rates(self, student: nn.Module, images: Tensor, deltas: Tensor) -> list[float]:
        before = student(images).argmax(dim=1)
        rates = []
        for goal, delta in enumerate(deltas):
            others = before != goal
            reached = (student(images + delta).argmax(dim=1) == goal) & others
            counts = torch.stack([reached.sum(), others.sum()]).double()
            distributed.average_([counts])
            rates.append(float(counts[0] / counts[1].clamp(min=1)))
        return rates

    def _remember(self, pixels: Tensor) -> None:
        if self._first:  # a round may draw twice: before and after the generator's step
            # Every process keeps the images of all: the state that one of them saves is that of all.
            self.recent = [*self.recent, distributed.gather_rows(pixels)][-self.settings.batches :]
            self._first = False

    def report(self) -> DefenseReport:
        """The class whose perturbation was taken out, all flip rates, and how sparse the direction is."""
        if self.direction is None:
            return DefenseReport(self.name, False, "the direction has not been sought yet")
        best = max(range(len(self.flips)), key=self.flips.__getitem__)
        entries = int((self.direction != 0).sum())
        detail = (
            f"took out the direction towards class {self.spec.labels[best]} "
            f"({self.flips[best]:.0%} of other images reached, {entries} entries)"
        )
        facts = {"class": best, "flip_rates": self.flips, "entries": entries, "student_steps": self.views}
        return DefenseReport(self.name, self.views > 0, detail, facts)

    def evidence(self, images: Tensor) -> Evidence | None:
        """u, of unit length."""
        return None if self.direction is None else Evidence(pattern=self.direction)

    def state_dict(self) -> dict[str, Any]:
        """The images before the search, the direction after it."""
        return {
            "recent": list(self.recent),
            "direction": self.direction,
            "flips": self.flips,
            "views": self.views,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.recent = state["recent"]
        self.direction = state["direction"]
        self.flips = state["flips"]
        self.views = state["views"]


def _at_most(deltas: Tensor, length: float) -> Tensor:
    """Each (C, H, W) scaled back to ``length`` if it is longer."""
    norms: Tensor = deltas.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return deltas * (length / norms.clamp(min=1e-12)).clamp(max=1.0)
