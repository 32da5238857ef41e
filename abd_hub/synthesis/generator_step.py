"""Holds the parts that all methods with one generator share: settings, noise, step and state.

The files of the methods add loss and schedule. A step of the generator computes gradients of its own weights
only. Teacher, student and shuffled copies pass the gradient on to the images.
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
from abd_hub.learning.modes import running_statistics_kept
from abd_hub.synthesis.generator import Generator, Output


@dataclass(frozen=True, kw_only=True)
class GeneratorMethod(SynthesisMethod):
    """Describes a method with one generator, which learns throughout the run and makes all images."""

    clip_norm: float = 0.0
    """Limits the gradient norms of student and generator; 0 switches clipping off."""
    attention_weight: float = 0.0
    """Weighs attention transfer over matching block outputs; 0 switches it off."""
    generator_learning_rate: Positive
    """Sets the generator's learning rate at the start."""
    z_dim: Count
    """Sets the noise vector's length."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Sets the generator's feature maps; its second half has half as many."""

    @abstractmethod
    def generator_rate(self, index: int) -> float:
        """Returns the generator's learning rate in round ``index``."""


class GeneratorSynthesizer(Synthesizer):
    """Runs a generator with its Adam.

    Args:
        method: settings; the class name in lower case is the purpose of every draw.
        teacher: frozen, on the device.
        accelerator: gives device, precision and the backward pass.
        seed: seed of every draw.
        output: last layer of the generator, see ``Generator``.
        betas: betas of Adam.
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
        """Holds this process's rows of the noise of the generator's step, (N, z_dim)."""

    @abstractmethod
    def losses(self, view: View, figures: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the loss that the generator minimizes, without the defense's penalty.

        Args:
            view: the generator's images, with the networks.
            figures: receives the terms that are logged, 0-d tensors.

        Returns:
            The teacher's logits (N, classes), attached, and a scalar.
        """

    def begin_round(self, index: int) -> None:
        """Draws z for the global batch, keeps this process's rows, and sets the learning rate."""
        self.index = index
        self.noise = self.draw("z", index)
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.generator_rate(index)

    def draw(self, *purpose: str | int) -> Tensor:
        """Draws a global batch of noise and returns this process's rows, (N, z_dim)."""
        generator = seeding.generator(self.seed, self.name, *purpose)
        noise = torch.randn(self.method.batch_size, self.method.z_dim, generator=generator)
        dtype = next(self.generator.parameters()).dtype
        return distributed.own_rows(noise).to(self.accelerator.device, dtype)

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Takes one step of the generator on ``losses`` plus the defense's penalty.

        Returns:
            The terms of ``losses`` and the penalty, 0-d tensors.
        """
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
        """Returns the pixels (N, C, H, W) of the round's noise, before the generator's step."""
        return self.pixels(self.noise)

    def sample(self, step: int) -> Tensor | None:
        """Returns images of the updated generator, from noise that each student step draws anew."""
        return self.fixed_pixels(self.draw("student z", self.index, step))

    def unseen(self, count: int) -> Tensor | None:
        """Returns images of a noise that no student step has; it is the same noise in every round."""
        with running_statistics_kept(self.generator):
            pixels = self.fixed_pixels(self.draw("unseen z"))
        return pixels[: count // distributed.world()[1]]

    def fixed_pixels(self, noise: Tensor) -> Tensor:
        """Returns ``pixels`` without a gradient, in the run's precision."""
        with torch.no_grad(), self.accelerator.autocast():
            return self.pixels(noise)

    def pixels(self, noise: Tensor) -> Tensor:
        """Maps noise (N, z_dim) to pixels (N, C, H, W), in [0, 1] only where ``output`` is ``pixels``."""
        # The pixels are not clipped to [0, 1], because the papers' generators work in normalized space.
        images: Tensor = self.generator(noise).to(self.teacher.image_mean.dtype)
        if self.output == "pixels":
            return images
        return images * self.teacher.image_std + self.teacher.image_mean

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of generator and optimizer; the noise follows from seed and round."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        self.generator.load_state_dict(state["generator"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
