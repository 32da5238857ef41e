"""Self-Retrospection (Hong et al., ICML 2023, arXiv 2306.02368, section 4.2): unlearn what got through.

In the last part of the distillation the student S looks for the perturbation that changes its own answers
most and learns to ignore it. With the clean answers S(x) as constants throughout:

    delta* = argmax KL(M(x) || M(x + delta)) - rho |delta|^2          M: student or teacher, Adam
    l(delta) = -KL(S(x) || S(x + delta)) + rho |delta|^2              inner loss
    L(delta, theta) = KL(S(x) || S(x~)), x~ = x with delta* on a share of the batch
    v_0 = 0, v <- (I - eta H) v + dL/d delta, H = d^2 l / d delta^2   (K times)
    gradient = dL/d theta - eta * d(v . dl/d delta) / d theta

This is added to the ordinary distillation gradient. KL is summed over classes and averaged over samples;
delta lives in the teacher's *normalized* scale (pixels = delta * std) and starts from small noise, because
delta = 0 is a stationary point of the KL, where the first gradient is rounding noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from abd_hub.core import paper, seeding
from abd_hub.core.contracts import Batch, Defense, DefensePlugin, Evidence, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.records import DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, NotNegative, Positive, PositiveShare
from abd_hub.learning import distributed
from abd_hub.learning.losses import kl
from abd_hub.learning.twice_differentiable import twice_differentiable


@register("defenses", "self_retrospection")
@dataclass(frozen=True, kw_only=True)
class SelfRetrospection(Defense, place="self_retrospection"):
    """Self-Retrospection: late in the run the student unlearns the perturbation that moves it most."""

    citation: ClassVar[str] = paper.CITATION

    last_rounds: Count = 600
    """How many of the last rounds it is active in (the paper: 600 of 80,000; 200 of 10,000 for GTSRB)."""
    learning_rate: Positive = 5e-4
    """Of the fresh Adam that the student continues with from the first active round on, constant."""
    source: Literal["student", "teacher"] = "student"
    """Whose answers the perturbation changes: the student's (the paper) or the teacher's, which is found
    once for all student steps on the same images."""
    perturbation_steps: Count = 10
    """Adam steps on the perturbation."""
    perturbation_learning_rate: Positive = 0.1
    """Of these steps, in standard deviations of the pixels."""
    perturbation_start: Positive = 0.01
    """Standard deviation of the noise that the perturbation starts from."""
    norm_weight: NotNegative = 0.001
    """rho, weight of the squared norm of the perturbation."""
    perturbed_share: PositiveShare = 0.02
    """Share of a batch that is perturbed in the outer loss; at least one image."""
    inner_learning_rate: NotNegative = 0.1
    """eta of the fixed point."""
    fixed_point_steps: Count = 5
    """K; the first product is with the zero vector and is left out."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """One of 50 rounds has it; the paper has one of 133 (CIFAR-10) or of 50 (GTSRB)."""
        return {"last_rounds": max(1, rounds // 50)}

    def build(self, teacher: Teacher, seed: int = 0) -> Retrospection:
        """The retrospection at work: active at once, unless a loop calls ``begin_round``.

        Args:
            teacher: frozen classifier; its ``image_std`` is the scale of the perturbation.
            seed: of the perturbation's starting noise.
        """
        return Retrospection(self, teacher, seed)


class Retrospection(DefensePlugin):
    """At work: ``retrospection.add_gradients(student, batch)`` between backward and the optimizer's step."""

    name = "self_retrospection"

    def __init__(self, settings: SelfRetrospection, teacher: Teacher, seed: int) -> None:
        self.settings = settings
        self.teacher = teacher
        self.seed = seed
        self.active = True
        self.calls = 0
        self.latest: Tensor | None = None
        """delta* of the latest student step, (1, C, H, W) in standard deviations; to be looked at only."""
        self._found: tuple[Tensor, int, Tensor] | None = None
        """Images, how often they have been changed in place, and the teacher's perturbation of them."""

    def check(self, rounds: int) -> None:
        """Refuses to be active from the first round on: it is for the end of a distillation."""
        if self.settings.last_rounds >= rounds:
            raise InputError(
                f"self_retrospection.last_rounds: {self.settings.last_rounds} of {rounds} rounds leaves no "
                "ordinary distillation; use fewer (the paper: 600 of 80,000)"
            )

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Switches itself on for the last rounds."""
        self.active = index >= rounds - self.settings.last_rounds

    def fresh_learning_rate(self, index: int, rounds: int) -> float | None:
        """The optimizer begins anew with the first active round."""
        first = max(0, rounds - self.settings.last_rounds)
        return self.settings.learning_rate if index == first else None

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds the hypergradient to ``.grad``; does nothing outside the last rounds.

        Args:
            student: in train mode; its running statistics are left as they are.
            batch: only ``pixels`` is read.
        """
        if not self.active:
            return
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        # Second derivatives lose their sense in half precision: everything here is float32 or wider.
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
        """The gradient of the module's docstring for the student's weights, one tensor a weight.

        Args:
            student: from pixels to logits.
            pixels: (N, C, H, W).
            weights: what to differentiate by.
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
        """``perturbation``; the teacher's is the same in all steps on one batch: ten times in ZSKT.

        Of 28,600 MMAC an image of a round of ZSKT, WRN-16-2 to WRN-16-1, 9,500 are left.
        """
        if self.settings.source == "student":
            return self.perturbation(student, pixels, clean)
        if self._found is None or self._found[0] is not pixels or self._found[1] != pixels._version:
            self._found = (pixels, pixels._version, self.perturbation(student, pixels, clean))
        return self._found[2]

    def perturbation(self, student: nn.Module, pixels: Tensor, clean: Tensor) -> Tensor:
        """delta*, (1, C, H, W) in standard deviations, shared by the batch and by all processes.

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
        chance = seeding.generator(self.seed, "self_retrospection", self.calls)
        noise = torch.randn(1, *pixels.shape[1:], generator=chance) * self.settings.perturbation_start
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
        # Of the global batch's first rows, those that are this process's. Where these are none, delta still
        # has a part in the batch statistics of the other rows: no row at all keeps it in the graph.
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
        """Whether and how often it added gradients."""
        if self.calls:
            detail = f"added its gradient to {self.calls} student steps"
        else:
            detail = f"it begins with the last {self.settings.last_rounds} rounds"
        return DefenseReport(self.name, self.calls > 0, detail, {"student_steps": self.calls})

    def evidence(self, images: Tensor) -> Evidence | None:
        """The perturbation of the last student step, in pixel units."""
        return None if self.latest is None else Evidence(pattern=(self.latest * self.teacher.image_std)[0])

    def state_dict(self) -> dict[str, Any]:
        """The number of calls and the latest perturbation; everything else follows from the seed."""
        return {"calls": self.calls, "latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.calls = state["calls"]
        self.latest = state.get("latest")  # checkpoints from before it was kept


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in train mode normalizes by the batch but does not record its statistics.

    Dropout is off: with another mask in each pass, their difference would be noise.
    """
    dropping = [layer for layer in module.modules() if _drops(layer) and layer.training]
    for layer in dropping:
        layer.training = False

    recording = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.training and layer.track_running_stats
    ]

    for layer in recording:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in recording:
            layer.track_running_stats = True
        for layer in dropping:
            layer.training = True


def _drops(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd | DropPath)


def _or_zero(gradient: Tensor | None, weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if gradient is None else gradient
