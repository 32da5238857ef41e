"""DHBE (Yan et al., AsiaCCS 2023, arXiv 2306.08009) regularizes the student against patches that move it.

A second generator P makes small patches. It maximizes how far they move the student's logits, and the student
minimizes this beside its distillation:

    L(S) = L1(S(x), T(x)) + weight * L1(S(x + p), sg S(x)),     p = pad(P(z))
    L(P) = -L1(S(x + p), S(x))

L1 is the mean over samples and classes, and sg stops the gradient. Each image gets a patch of its own, and
one random place serves the whole batch. Patches lie in (-1, 1) by a tanh, and are added in pixel units
without a clamp. After every five student steps, P takes one step of Adam. Its rate falls to a tenth at 60 %
of the run and again at 80 %. These facts, the layers of P and the defaults come from the published code.

The first term is the method's own loss, and this defense adds the second. The published run is nearly that of
``dfad`` with 15,000 rounds and ``learning_rate_drops`` (0.6, 0.8). With a loss other than l1, the weight 0.1
means another balance. This version differs from the published code in five points:

- The paper's student starts from the teacher's weights. Here the student starts as the run makes it, usually
  with fresh weights and a smaller architecture.
- The paper's generator of images also minimizes 1e-4 times their total variation, and ``dfad`` does not.
- BatchNorm's running statistics record no patched image. Dropout is off in both passes of the second term.
- P takes its step on the images of the next student step, not on a batch of its own. The step after the last
  student step is left out, because no student would see its patches.
- P's convolution has no bias, because the BatchNorm after it would remove the bias.

No effect of this defense has been measured in this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import Batch, Defense, DefensePlugin, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.evidence import Evidence
from abd_hub.core.records import DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, Positive, Range
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.losses import l1_per_sample
from abd_hub.learning.modes import running_statistics_kept
from abd_hub.learning.schedules import stepped

_LATEST = 100
"""Student steps whose second term the report averages; they are 20 rounds of the published run."""


@register("defenses", "dhbe")
@dataclass(frozen=True, kw_only=True)
class Dhbe(Defense):
    """DHBE: makes the student ignore small patches, which a generator learns to make effective."""

    citation: ClassVar[str] = """@inproceedings{yan2023dhbe,
  title     = {{DHBE}: Data-free Holistic Backdoor Erasing in Deep Neural Networks via Restricted Adversarial
               Distillation},
  author    = {Yan, Zhicong and Li, Shenghong and Zhao, Ruijie and Tian, Yuan and Zhao, Yuanyuan},
  booktitle = {ACM Asia Conference on Computer and Communications Security},
  year      = {2023},
  note      = {arXiv:2306.08009}
}"""

    weight: Positive = 0.1
    """Weights the change of the logits by a patch in the student's loss."""
    patch_size: Annotated[int, Range(least=3, most=9)] = 5
    """Sets height and width of a patch in pixels. The paper's generator has more layers above 9."""
    generator_every: Count = 5
    """Sets the number of student steps between two steps of the patch generator."""
    generator_learning_rate: Positive = 1e-3
    """Sets the learning rate of the patch generator's Adam at the start."""
    learning_rate_drops: tuple[Annotated[float, Range(above=0, below=1)], ...] = (0.6, 0.8)
    """Lists the shares of the rounds after which the patch generator's rate falls to a tenth."""
    z_dim: Count = 256
    """Sets the length of the patch generator's noise vector."""
    generator_channels: Count = 64
    """Sets the patch generator's feature maps."""

    def build(self, teacher: Teacher, seed: int = 0) -> PatchRegularization:
        """Returns the defense at work; without ``begin_round``, the generator's rate stays as it starts.

        Args:
            teacher: gives the size of the images, the device and the type of numbers.
            seed: seeds the generator's weights, the noise and the places of the patches.

        Raises:
            InputError: the images are smaller than a patch.
        """
        height, width = teacher.spec.height, teacher.spec.width
        if self.patch_size > min(height, width):
            raise InputError(
                f"dhbe.patch_size: {self.patch_size} is more than the teacher's images of {height}x{width} "
                f"hold; use at most {min(height, width)}, or a larger teacher.input_size"
            )
        return PatchRegularization(self, teacher, seed)


class PatchRegularization(DefensePlugin):
    """Trains the patch generator, and adds the gradient of the second term to the student's."""

    name = "dhbe"

    def __init__(self, settings: Dhbe, teacher: Teacher, seed: int) -> None:
        self.settings = settings
        self.teacher = teacher
        self.seed = seed
        self.calls = 0
        with seeding.seeded(seed, "dhbe", "generator"):
            generator = patch_generator(settings, teacher.spec.channels)
        self.generator = generator.to(teacher.image_mean)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=settings.generator_learning_rate)
        self.effects = teacher.image_mean.new_empty(0)
        """Holds the second term, without its weight, of the latest student steps of all processes."""

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Sets the patch generator's learning rate."""
        start, drops = self.settings.generator_learning_rate, self.settings.learning_rate_drops
        for group in self.optimizer.param_groups:
            group["lr"] = stepped(start, index, rounds, drops)

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds the gradient of the second term to ``.grad``, after the patch generator's step if one is due.

        Args:
            student: in train mode; its running statistics do not change.
            batch: only ``pixels`` is read.
        """
        pixels = batch.pixels
        weights = [weight for weight in student.parameters() if weight.requires_grad]

        # Without a loss scale, gradients vanish in half precision, so everything here is float32 or wider.
        with torch.autocast(pixels.device.type, enabled=False), running_statistics_kept(student):
            with torch.no_grad():
                clean = student(pixels)
            if self.calls and self.calls % self.settings.generator_every == 0:
                self._generator_step(student, pixels, clean)
            with torch.no_grad():
                patched = pixels + self.perturbation("student", self.calls, pixels)
            effect = l1_per_sample(student(patched), clean).mean()
            gradients = torch.autograd.grad(self.settings.weight * effect, weights, allow_unused=True)

        self.calls += 1
        self._remember(effect.detach())
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    def perturbation(self, purpose: str, step: int, pixels: Tensor) -> Tensor:
        """Returns patches amid zeros, (N, C, H, W), in pixel units, with the gradient to the generator.

        Args:
            purpose: purpose of the draw of noise and place.
            step: number of the student's step.
            pixels: (N, C, H, W), this process's rows of the images that will be patched.
        """
        draws = seeding.generator(self.seed, "dhbe", purpose, step)
        images = pixels.shape[0] * distributed.world()[1]
        noise = torch.randn(images, self.settings.z_dim, generator=draws)
        patches = self.generator(distributed.own_rows(noise).to(self.teacher.image_mean))

        (height, width), size = pixels.shape[2:], self.settings.patch_size
        top, left = (int(torch.randint(side - size + 1, (1,), generator=draws)) for side in (height, width))
        return F.pad(patches, (left, width - size - left, top, height - size - top))

    def _generator_step(self, student: nn.Module, pixels: Tensor, clean: Tensor) -> None:
        """Takes one step of the patch generator towards patches that move the student further."""
        weights = list(self.generator.parameters())
        patched = pixels + self.perturbation("generator", self.calls, pixels)
        loss = -l1_per_sample(student(patched), clean).mean()

        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        distributed.average_gradients(weights)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _remember(self, effect: Tensor) -> None:
        distributed.average_([effect])
        self.effects = torch.cat([self.effects, effect[None].to(self.effects)])[-_LATEST:]

    def report(self) -> DefenseReport:
        """Reports the steps so far, and how far patches moved the logits in the latest of them."""
        if not self.calls:
            return DefenseReport(self.name, False, "no student step has been taken yet")

        # Two processes add in another order than one, so the last digits are left out.
        effect = float(f"{float(self.effects.mean()):.4g}")
        detail = (
            f"added its gradient to {self.calls} student steps; in the latest {len(self.effects)}, a patch "
            f"changed a logit by {effect:.3g} on average"
        )
        generator_steps = (self.calls - 1) // self.settings.generator_every
        facts = {
            "student_steps": self.calls,
            "generator_steps": generator_steps,
            "latest_steps": len(self.effects),
            "latest_effect": effect,
        }
        return DefenseReport(self.name, True, detail, facts)

    def evidence(self, images: Tensor) -> Evidence | None:
        """Returns a patch of the finished generator, at the place of the last student step."""
        if not self.calls:
            return None
        return Evidence(pattern=self.perturbation("student", self.calls - 1, images)[0])

    def state_dict(self) -> dict[str, Any]:
        """Returns generator, optimizer and latest effects; noise and places follow from the seed."""
        return {
            "calls": self.calls,
            "effects": self.effects,
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``."""
        self.calls = state["calls"]
        self.effects = state["effects"]
        self.generator.load_state_dict(state["generator"])
        on_the_cpu = checkpoint.to_device(state["optimizer"], torch.device("cpu"))
        checkpoint.restore_optimizer(self.optimizer, on_the_cpu)


def patch_generator(settings: Dhbe, channels: int) -> nn.Sequential:
    """Returns the network from noise (N, z_dim) to patches (N, channels, size, size) in (-1, 1).

    A linear layer leads to maps of the patch's size. A 3x3 convolution follows, between two BatchNorms that
    always use the statistics of the batch, and a tanh. It is ``PatchGeneratorPreBN`` of the published code.
    """
    maps, size = settings.generator_channels, settings.patch_size
    return nn.Sequential(
        nn.Linear(settings.z_dim, maps * size * size),
        nn.Unflatten(1, (maps, size, size)),
        nn.BatchNorm2d(maps, track_running_stats=False),
        nn.Conv2d(maps, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
        nn.Tanh(),
    )
