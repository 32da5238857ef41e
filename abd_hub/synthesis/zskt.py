"""Zero-Shot Knowledge Transfer (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, algorithm 1).

A generator G draws images on which the student S disagrees most with the teacher T:
G minimises -KL(T(G(z)) || S(G(z))), S minimises KL(T(G(z)) || S(G(z))) + 250 * attention transfer.

The paper's loop draws z once a round, takes one generator step and then ten student steps on the same z.
G does not change between the student steps, so the images and the teacher's answers are computed once:
per image of a round about 1600 instead of 6000 MMAC for WRN-16-2 -> WRN-16-1, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from abd_hub import checkpoint, distributed, seeding
from abd_hub.losses import kl
from abd_hub.registry import register
from abd_hub.schedules import cosine
from abd_hub.synthesis.generator import Generator
from abd_hub.types import DefensePlugin, InputError, SynthesisMethod, Synthesizer, Teacher


@register("synthesizers", "zskt")
@dataclass(frozen=True, kw_only=True)
class Zskt(SynthesisMethod):
    """Zero-Shot Knowledge Transfer: a generator seeks images on which student and teacher disagree."""

    rounds: int = 80_000
    """Pseudo-batches in all: one generator step and ``student_steps`` student steps each."""
    batch_size: int = 128
    """Images in a pseudo-batch, over all processes together."""
    student_steps: int = 10
    """Student steps on each pseudo-batch."""
    learning_rate: float = 2e-3
    """Of the student's Adam at the start; cosine to zero."""
    clip_norm: float = 5.0
    """Largest gradient norm of student and generator; 0 switches clipping off."""
    temperature: float = 1.0
    """Of the student's KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 250.0
    """Weight of attention transfer; 0 where teacher and student have no matching blocks."""
    generator_learning_rate: float = 1e-3
    """Of the generator's Adam at the start; cosine to zero."""
    z_dim: int = 100
    """Length of the noise vector."""
    generator_channels: int = 128
    """Feature maps of the generator's first half; its second half has half as many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.z_dim < 1:
            raise InputError(f"zskt.z_dim: must be at least 1, got {self.z_dim}")
        if self.generator_channels < 2:
            raise InputError(f"zskt.generator_channels: must be at least 2, got {self.generator_channels}")
        if self.generator_learning_rate <= 0:
            raise InputError(
                f"zskt.generator_learning_rate: must be positive, got {self.generator_learning_rate}"
            )

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> ZsktSynthesizer:
        """The generator with its optimiser, on the accelerator's device."""
        return ZsktSynthesizer(self, teacher, accelerator, seed)


class ZsktSynthesizer(Synthesizer):
    """ZSKT at work."""

    def __init__(self, method: Zskt, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        self.method = method
        self.teacher = teacher
        self.accelerator = accelerator
        self.seed = seed
        with seeding.seeded(seed, "zskt", "generator"):
            generator = Generator(teacher.spec, method.z_dim, method.generator_channels)
        self.generator = generator.to(accelerator.device).to(memory_format=torch.channels_last)
        self.optimizer = accelerator.prepare(
            torch.optim.Adam(self.generator.parameters(), lr=method.generator_learning_rate)
        )
        self.noise = torch.empty(0)

    def begin_round(self, index: int) -> None:
        """Draws z for the global batch and keeps this process's rows; sets the learning rate."""
        draw = seeding.generator(self.seed, "zskt", "z", index)
        noise = torch.randn(self.method.batch_size, self.method.z_dim, generator=draw)
        dtype = next(self.generator.parameters()).dtype
        self.noise = distributed.own_rows(noise).to(self.accelerator.device, dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(self.method.generator_learning_rate, index, self.method.rounds)

    def update(self, student: nn.Module, defense: DefensePlugin) -> dict[str, Tensor]:
        """One generator step on -KL(T || S) + penalty.

        Only the generator's weights get gradients: teacher, student and shuffled copies pass the
        gradient on to the images without computing their own weights'.
        """
        weights = list(self.generator.parameters())
        with self.accelerator.autocast():
            pixels = defense.drawn(self._pixels())
            teacher_logits = self.teacher(pixels)
            disagreement = kl(teacher_logits, student(pixels))
            extra = defense.penalty(pixels, teacher_logits)
            loss = extra - disagreement
        self.accelerator.backward(loss, inputs=weights)
        self.accelerator.unscale_gradients(self.optimizer)
        distributed.average_gradients(weights)
        if self.method.clip_norm:
            torch.nn.utils.clip_grad_norm_(weights, self.method.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"disagreement": disagreement.detach(), "penalty": extra.detach()}

    def sample(self, step: int) -> Tensor | None:
        """The images of the updated generator, the same for every student step of the round."""
        if step > 0:
            return None
        with torch.no_grad(), self.accelerator.autocast():
            return self._pixels()

    def state_dict(self) -> dict[str, Any]:
        """Generator and its optimiser; the noise follows from seed and round."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.generator.load_state_dict(state["generator"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])

    def _pixels(self) -> Tensor:
        # Not clipped to [0, 1]: the paper's generator lives in normalised space and is unbounded.
        pixels: Tensor = self.generator(self.noise).to(self.teacher.image_mean.dtype)
        return pixels * self.teacher.image_std + self.teacher.image_mean
