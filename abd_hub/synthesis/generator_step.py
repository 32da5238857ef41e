"""What methods with one generator share: settings, noise, step, state; their files hold loss and schedule.

A step of the generator gives gradients to its own weights only: teacher, student and shuffled copies pass
the gradient on to the images without computing their own weights'.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.contracts import Networks, SynthesisMethod, Synthesizer, Teacher, View
from abd_hub.core.settings import Count, Positive, Range
from abd_hub.learning import checkpoint, distributed
from abd_hub.synthesis.generator import Generator, Output


@dataclass(frozen=True, kw_only=True)
class GeneratorMethod(SynthesisMethod):
    """A method whose images come from one generator that learns throughout the run."""

    clip_norm: float = 0.0
    """Largest gradient norm of student and generator; 0 switches clipping off."""
    attention_weight: float = 0.0
    """Weight of attention transfer over matching block outputs; 0 switches it off."""
    generator_learning_rate: Positive
    """Of the generator's Adam at the start."""
    z_dim: Count
    """Length of the noise vector."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Feature maps of the generator's first half; its second half has half as many."""

    @abstractmethod
    def generator_rate(self, index: int) -> float:
        """The generator's learning rate in round ``index``."""


class GeneratorSynthesizer(Synthesizer):
    """A generator with its Adam at work.

    Args:
        method: its class name in lower case is the purpose of every draw.
        teacher: frozen, on the device.
        accelerator: gives device, precision and the backward pass.
        seed: of every draw.
        output: how the generator ends.
        betas: of Adam.
    """

    def __init__(
        self,
        method: GeneratorMethod,
        teacher: Teacher,
        accelerator: Accelerator,
        seed: int,
        *,
        output: Output = "normalized",
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.method = method
        self.teacher = teacher
        self.accelerator = accelerator
        self.seed = seed
        self.output = output
        self.name = type(method).__name__.lower()
        self.index = 0

        with seeding.seeded(seed, self.name, "generator"):
            generator = Generator(teacher.spec, method.z_dim, method.generator_channels, output)
        self.generator = generator.to(accelerator.device).to(memory_format=torch.channels_last)
        self.optimizer = accelerator.prepare(
            torch.optim.Adam(self.generator.parameters(), lr=method.generator_learning_rate, betas=betas)
        )
        self.noise = torch.empty(0)
        """(N, z_dim) of this round's generator step, this process's rows."""

    @abstractmethod
    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the generator minimizes, without the defense's penalty.

        Args:
            view: of the generator's images.
            figures: to be filled with what is logged, 0-d tensors.

        Returns:
            The teacher's logits (N, classes), attached, and a scalar.
        """

    def begin_round(self, index: int) -> None:
        """Draws z for the global batch and keeps this process's rows; sets the learning rate."""
        self.index = index
        self.noise = self.draw("z", index)
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.generator_rate(index)

    def draw(self, *purpose: str | int) -> Tensor:
        """This process's rows of a global batch of noise, (N, z_dim)."""
        chance = seeding.generator(self.seed, self.name, *purpose)
        noise = torch.randn(self.method.batch_size, self.method.z_dim, generator=chance)
        dtype = next(self.generator.parameters()).dtype
        return distributed.own_rows(noise).to(self.accelerator.device, dtype)

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """One step of the generator on ``losses`` + the defense's penalty."""
        weights = list(self.generator.parameters())
        figures: dict[str, Tensor] = {}
        with self.accelerator.autocast():
            view = networks.view(self.generate())
            teacher_logits, loss = self.losses(view, figures)
            penalty = view.penalty(teacher_logits)
            loss = penalty + loss

        self.accelerator.backward(loss, inputs=weights)
        self.accelerator.unscale_gradients(self.optimizer)
        distributed.average_gradients(weights)
        if self.method.clip_norm:
            torch.nn.utils.clip_grad_norm_(weights, self.method.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

        figures["penalty"] = penalty
        return {name: value.detach() for name, value in figures.items()}

    def generate(self) -> Tensor:
        """Pixels (N, C, H, W) of the round's noise, as the generator's step begins with them."""
        return self.pixels(self.noise)

    def sample(self, step: int) -> Tensor | None:
        """Images of the updated generator from noise that each student step draws anew."""
        return self.fixed_pixels(self.draw("student z", self.index, step))

    def fixed_pixels(self, noise: Tensor) -> Tensor:
        """``pixels`` without a gradient, in the run's precision."""
        with torch.no_grad(), self.accelerator.autocast():
            return self.pixels(noise)

    def pixels(self, noise: Tensor) -> Tensor:
        """(N, z_dim) to pixels (N, C, H, W); outside [0, 1] too, unless ``output`` is ``pixels``."""
        # Not clipped to [0, 1]: the papers' generators live in normalized space.
        images: Tensor = self.generator(noise).to(self.teacher.image_mean.dtype)
        if self.output == "pixels":
            return images
        return images * self.teacher.image_std + self.teacher.image_mean

    def state_dict(self) -> dict[str, Any]:
        """Generator and its optimizer; the noise follows from seed and round."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.generator.load_state_dict(state["generator"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
