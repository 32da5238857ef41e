"""Self-Retrospection (Hong et al., ICML 2023, arXiv 2306.02368, section 4.2) removes an inherited backdoor.

In the last part of the distillation, the student S searches for the perturbation that changes its own answers
most. Then it learns to ignore this perturbation. The clean answers S(x) are constants throughout.

    delta* = argmax KL(M(x) || M(x + delta)) - rho |delta|^2          M: student or teacher, Adam
    l(delta) = -KL(S(x) || S(x + delta)) + rho |delta|^2              inner loss
    L(delta, theta) = KL(S(x) || S(x~)), x~ = x with delta* on a share of the batch
    v_0 = 0, v <- (I - eta H) v + dL/d delta, H = d^2 l / d delta^2   (K times)
    gradient = dL/d theta - eta * d(v . dl/d delta) / d theta

The student's step uses the sum of this gradient and the ordinary distillation gradient. KL is summed over
classes and averaged over samples. delta is in the teacher's *normalized* scale (pixels = delta * std). It
starts from small noise, because delta = 0 is a stationary point of the KL. There, the first gradient would be
rounding noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from abd_hub.core import paper, seeding
from abd_hub.core.contracts import Batch, Defense, DefensePlugin, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.evidence import Evidence
from abd_hub.core.records import DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, NotNegative, Positive, PositiveShare
from abd_hub.learning import distributed
from abd_hub.learning.losses import kl
from abd_hub.learning.modes import running_statistics_kept
from abd_hub.learning.twice_differentiable import twice_differentiable


@register("defenses", "self_retrospection")
@dataclass(frozen=True, kw_only=True)
class SelfRetrospection(Defense, place="self_retrospection"):
    """Self-Retrospection: makes the student unlearn, late in the run, the perturbation that moves it most."""

    citation: ClassVar[str] = paper.CITATION

    last_rounds: Count = 600
    """Activates the defense in this many of the last rounds (the paper: 600 of 80,000; 200 of 10,000 for
    GTSRB)."""
    learning_rate: Positive = 5e-4
    """Sets the constant learning rate of the fresh Adam that trains the student from the first active round
    on."""
    source: Literal["student", "teacher"] = "student"
    """Selects the network whose answers the perturbation changes: the student (as in the paper) or the
    teacher. The teacher's perturbation is computed once for all student steps on the same images."""
    perturbation_steps: Count = 10
    """Sets the number of Adam steps on the perturbation."""
    perturbation_learning_rate: Positive = 0.1
    """Sets the learning rate of these steps, in standard deviations of the pixels."""
    perturbation_start: Positive = 0.01
    """Sets the standard deviation of the noise from which the perturbation starts."""
    norm_weight: NotNegative = 0.001
    """Sets rho, the weight of the perturbation's squared norm."""
    perturbed_share: PositiveShare = 0.02
    """Perturbs this share of a batch in the outer loss, and at least one image."""
    inner_learning_rate: NotNegative = 0.1
    """Sets eta, the learning rate of the fixed point."""
    fixed_point_steps: Count = 5
    """Sets K, the number of fixed-point steps. The first one multiplies the zero vector and is skipped."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Activates it in one of 50 rounds; the paper does in one of 133 (CIFAR-10) or of 50 (GTSRB)."""
        return {"last_rounds": max(1, rounds // 50)}

    def for_rounds(self, rounds: int) -> dict[str, Any]:
        """Activates it in one of 100 rounds, or in as many as are set, but in at most half of all."""
        default = type(self).last_rounds
        limit = rounds // 100 if self.last_rounds == default else rounds // 2
        return {"last_rounds": max(1, min(self.last_rounds, limit))}

    def late_rounds(self) -> int:
        """Returns the active rounds; on a CPU a student step takes about twenty times as long in them."""
        return self.last_rounds

    def build(self, teacher: Teacher, seed: int = 0) -> Retrospection:
        """Returns the retrospection at work, which is active at once unless a loop calls ``begin_round``.

        Args:
            teacher: frozen classifier; its ``image_std`` is the scale of the perturbation.
            seed: of the noise from which the perturbation starts.
        """
        return Retrospection(self, teacher, seed)


class Retrospection(DefensePlugin):
    """Adds its gradients to the student's, by ``add_gradients`` between backward and the optimizer's step."""

    name = "self_retrospection"

    def __init__(self, settings: SelfRetrospection, teacher: Teacher, seed: int) -> None:
        self.settings = settings
        self.teacher = teacher
        self.seed = seed
        self.active = True
        self.calls = 0
        self.latest: Tensor | None = None
        """Holds delta* of the latest student step for ``evidence``, (1, C, H, W) in standard deviations."""
        self._teacher_perturbation: tuple[Tensor, int, Tensor] | None = None
        """Holds images, the count of their changes in place, and the teacher's perturbation of them."""

    def check(self, rounds: int) -> None:
        """Checks that some rounds of ordinary distillation come before the active ones.

        Raises:
            InputError: ``last_rounds`` covers all rounds.
        """
        if self.settings.last_rounds >= rounds:
            raise InputError(
                f"self_retrospection.last_rounds: {self.settings.last_rounds} of {rounds} rounds leaves no "
                f"ordinary distillation; use fewer than {rounds} (the paper: 600 of 80,000)"
            )

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Switches itself on for the last rounds."""
        self.active = index >= rounds - self.settings.last_rounds

    def fresh_learning_rate(self, index: int, rounds: int) -> float | None:
        """Returns the learning rate of a fresh optimizer for the first active round, None for all others."""
        first = max(0, rounds - self.settings.last_rounds)
        return self.settings.learning_rate if index == first else None

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds the hypergradient to ``.grad``; does nothing outside the last rounds.

        Args:
            student: in train mode; its running statistics do not change.
            batch: only ``pixels`` is read.
        """
        if not self.active:
            return
        weights = [weight for weight in student.parameters() if weight.requires_grad]

        # Second derivatives are useless in half precision, so everything here is float32 or wider.
        with (
            torch.autocast(batch.pixels.device.type, enabled=False),
            running_statistics_kept(student),
            twice_differentiable(),
        ):
            gradients = self.hypergradient(student, batch.pixels, weights)

        self.calls += 1
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    def hypergradient(self, student: nn.Module, pixels: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """Returns the gradient in the module's docstring, one tensor for each of the student's weights.

        Args:
            student: from pixels to logits.
            pixels: (N, C, H, W).
            weights: the student's weights to differentiate by.
        """
        with torch.no_grad():
            clean = student(pixels)
        delta = self._perturbation_once(student, pixels, clean)
        self.latest = delta.detach()

        outer = kl(clean, student(self._partly_perturbed(pixels, delta)))
        by_delta, *direct = torch.autograd.grad(outer, [delta, *weights], allow_unused=True)
        distributed.average_([by_delta])

        indirect = self._implicit(student, pixels, clean, delta, weights, by_delta)
        eta = self.settings.inner_learning_rate
        return [
            _or_zero(d, w) - eta * _or_zero(i, w) for d, i, w in zip(direct, indirect, weights, strict=True)
        ]

    def _perturbation_once(self, student: nn.Module, pixels: Tensor, clean: Tensor) -> Tensor:
        """Returns ``perturbation``, which it computes once a batch where it is the teacher's.

        The teacher's perturbation is the same in all steps on one batch, which are ten in ZSKT. A ZSKT round
        of WRN-16-2 to WRN-16-1 then costs 9,500 MMAC an image instead of 28,600.
        """
        if self.settings.source == "student":
            return self.perturbation(student, pixels, clean)

        kept = self._teacher_perturbation
        if kept is None or kept[0] is not pixels or kept[1] != pixels._version:
            kept = (pixels, pixels._version, self.perturbation(student, pixels, clean))
            self._teacher_perturbation = kept
        return kept[2]

    def perturbation(self, student: nn.Module, pixels: Tensor, clean: Tensor) -> Tensor:
        """Returns delta*, (1, C, H, W) in standard deviations, which the batch and all processes share.

        Args:
            student: from pixels to logits.
            pixels: (N, C, H, W).
            clean: (N, classes), the student's answer to ``pixels``, detached.
        """
        model, answer = student, clean
        if self.settings.source == "teacher":
            model = self.teacher  # type: ignore[assignment]
            with torch.no_grad():
                answer = model(pixels)

        draws = seeding.generator(self.seed, "self_retrospection", self.calls)
        noise = torch.randn(1, *pixels.shape[1:], generator=draws) * self.settings.perturbation_start
        delta = noise.to(pixels.device, pixels.dtype).requires_grad_()

        adam = torch.optim.Adam([delta], lr=self.settings.perturbation_learning_rate)
        for _ in range(self.settings.perturbation_steps):
            (delta.grad,) = torch.autograd.grad(self._inner(model, pixels, answer, delta), [delta])
            distributed.average_([delta.grad])
            adam.step()
        return delta

    def _inner(self, model: nn.Module, pixels: Tensor, answer: Tensor, delta: Tensor) -> Tensor:
        moved = model(pixels + delta * self.teacher.image_std)
        return self.settings.norm_weight * delta.square().sum() - kl(answer, moved)

    def _partly_perturbed(self, pixels: Tensor, delta: Tensor) -> Tensor:
        rank, processes = distributed.world()
        rows = pixels.shape[0]
        count = max(1, round(self.settings.perturbed_share * rows * processes))
        # The perturbed rows are the first of the global batch, so a later process may have none of them. Its
        # empty slice still keeps delta in the graph, because delta changes the batch statistics of all rows.
        count = min(max(0, count - rank * rows), rows)
        first = pixels[:count] + delta * self.teacher.image_std
        return torch.cat([first, pixels[count:]])

    def _implicit(
        self,
        student: nn.Module,
        pixels: Tensor,
        clean: Tensor,
        delta: Tensor,
        weights: list[nn.Parameter],
        by_delta: Tensor,
    ) -> tuple[Tensor | None, ...]:
        inner = self._inner(student, pixels, clean, delta)
        (slope,) = torch.autograd.grad(inner, [delta], create_graph=True)

        v = by_delta
        for _ in range(self.settings.fixed_point_steps - 1):
            (product,) = torch.autograd.grad(slope, [delta], grad_outputs=v, retain_graph=True)
            distributed.average_([product])
            v = v - self.settings.inner_learning_rate * product + by_delta

        return torch.autograd.grad(slope, weights, grad_outputs=v, allow_unused=True)

    def report(self) -> DefenseReport:
        """Reports whether and how often it added gradients."""
        if self.calls:
            detail = f"added its gradient to {self.calls} student steps"
        else:
            detail = f"it begins with the last {self.settings.last_rounds} rounds"
        return DefenseReport(self.name, self.calls > 0, detail, {"student_steps": self.calls})

    def evidence(self, images: Tensor) -> Evidence | None:
        """Returns the perturbation of the last student step, in pixel units."""
        return None if self.latest is None else Evidence(pattern=(self.latest * self.teacher.image_std)[0])

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of calls and the latest perturbation; everything else follows from the seed."""
        return {"calls": self.calls, "latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``."""
        self.calls = state["calls"]
        self.latest = state.get("latest")  # an older checkpoint lacks it


def _or_zero(gradient: Tensor | None, weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if gradient is None else gradient
