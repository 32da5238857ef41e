"""Implements Fast (Fang et al., AAAI 2022, arXiv 2112.06253).

The paper is "Up to 100x Faster Data-free Knowledge Distillation". One meta generator G with weights w learns
the common features of the images. From there a new batch takes ten steps, while pixels or a fresh generator
take thousands. Each round draws fresh noise z_0 and classes y, begins at w_0 = w, and for k = 0 ... K - 1:

    x_k = augment(G(z_k; w_k)),
    L_k = 10 R(x_k) + 0.4 CE(T(x_k), y) - 1.1 mean_i m_i KL(T(x_ik) || S(x_ik)),
    (w_{k+1}, z_{k+1}) = one step of Adam on L_k from (w_k, z_k), its moments fresh in every round,

R matches BatchNorm statistics, smoothed over the rounds. m_i is 1 where teacher and student choose the same
class, else 0. The batch G(z_k; w_k) with the smallest L_k goes into the bank. Then w learns by first-order
MAML, with an Adam that lives as long as the run:

    g = sum_k dL_k / dw_k,    w = Adam(w, g) with a rate of K times the inner one.

The gradients are summed, as in the published code. Adam ignores their scale, so the rate alone makes one
outer step as long as all inner steps. The student learns from the bank only.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import Networks, Teacher, View
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, CountOrZero, NotNegative, Positive, Range, ShareBelowOne
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.losses import agreed_divergence, cross_entropy
from abd_hub.learning.modes import in_eval_mode
from abd_hub.synthesis.bank_synthesizer import BankMethod, BankSynthesizer
from abd_hub.synthesis.batch_norm import BatchNormStatistics
from abd_hub.synthesis.generator import Generator

BETAS = (0.5, 0.999)
"""Are the betas of both Adams."""
RESET_STD = 0.02
"""Is the deviation of the weights that the reset draws anew."""


@register("synthesizers", "fast")
@dataclass(frozen=True, kw_only=True)
class Fast(BankMethod):
    """Fast: a meta-learned generator makes a batch in ten steps, and the student learns from a bank."""

    citation: ClassVar[str] = """@inproceedings{fang2022fast,
  title     = {Up to 100x Faster Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Mo, Kanya and Wang, Xinchao and Song, Jie and Bei, Shitao and
               Zhang, Haofei and Song, Mingli},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2022},
  note      = {arXiv:2112.06253}
}"""

    rounds: int = 220
    """Sets the number of rounds. Each makes one batch of images and then takes ``student_steps``."""
    batch_size: int = 256
    """Sets the images per student step; they come from the bank, and the processes share them."""
    student_steps: int = 400
    """Sets the student steps per round; the warm-up has none."""
    learning_rate: float = 0.2
    """Sets the student's learning rate; from here it follows a cosine to zero."""
    warmup_rounds: CountOrZero = 20
    """Sets the warm-up rounds; they fill the bank, without student steps and adversarial term."""
    generator_steps: Count = 10
    """Sets the generator's steps per round; they adapt the noise as well. The paper also has 5 with
    generator_learning_rate 3e-3, and 2 with 5e-3 and noise_learning_rate 0.015."""
    generator_learning_rate: Positive = 2e-3
    """Sets the inner learning rate; it holds for the adapted copy of the generator. The meta generator learns
    at ``generator_steps`` times this rate."""
    noise_learning_rate: Positive = 1e-2
    """Sets the noise's learning rate."""
    batch_norm_weight: NotNegative = 10.0
    """Weighs the BatchNorm distance, the term that matches the teacher's statistics."""
    batch_norm_momentum: ShareBelowOne = 0.9
    """Weighs earlier rounds in the statistics that are compared, in [0, 1)."""
    one_hot_weight: NotNegative = 0.4
    """Weighs the cross-entropy with the class that an image is made for. The published runs have 0.4 for
    WRN-40-2 teachers, 0.5 for others."""
    adversarial_weight: NotNegative = 1.1
    """Weighs KL(teacher || student) where both choose the same class, which is maximized. The published
    runs have 1.1 for WRN-40-2 teachers, 1.33 for ResNet-34 and 1.0 for VGG-11."""
    reset_first_layer_round: CountOrZero = 139
    """Sets the round of the reset, counted from 0; 0 for never. Before this round, the generator's linear
    layer and its BatchNorm are drawn anew, for diversity."""
    z_dim: Count = 256
    """Sets the noise vector's length."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Sets the generator's feature maps; its second half has half as many."""
    bank_size: int = 56_320
    """Limits the images kept; further ones replace the oldest. The default keeps all, 173 MB at 32x32."""
    crop_padding: int = 4
    """Pads images before random crops, by so many pixels, for generator and student; 0 for none."""
    flip: bool = True
    """Mirrors half of the images, for generator and student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_rounds >= self.rounds:
            raise self.refusal("warmup_rounds", f"must be below rounds, {self.rounds}", self.warmup_rounds)

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns half the batch, half the generator and a tenth of the steps, without a reset.

        After 20 core minutes a student of ``trojan_wm_2`` with hints had an accuracy of 0.33 with T = 20, and
        0.55 with T = 4 and this warm-up. Hints are left out here, because not all blocks match.
        """
        small = {"batch_size": 128, "synthesis_batch_size": 64, "student_steps": 40}
        short = {"temperature": 4.0, "learning_rate_warmup": 0.1, "reset_first_layer_round": 0}
        return small | short | {"generator_channels": 64}

    def for_rounds(self, rounds: int) -> dict[str, Any]:
        """Keeps the shares of the warm-up and of the rounds before the reset."""
        warmup = min(rounds - 1, -(-self.warmup_rounds * rounds // self.rounds))
        reset = round(self.reset_first_layer_round * rounds / self.rounds)
        return {"warmup_rounds": warmup, "reset_first_layer_round": reset}

    def timed(self) -> tuple[Fast, float]:
        """Times one step of the generator."""
        return dataclasses.replace(self, generator_steps=1), float(self.generator_steps)

    def steps_in(self, index: int) -> int:
        """Returns 0 in the warm-up and ``student_steps`` after it."""
        return 0 if index < self.warmup_rounds else self.student_steps

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> FastSynthesizer:
        """Returns Fast at work, with meta generator, optimizer and empty bank on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm, or the processes cannot share the batches.
        """
        return FastSynthesizer(self, teacher, accelerator, seed)


class FastSynthesizer(BankSynthesizer):
    """Runs Fast."""

    method: Fast

    def __init__(self, method: Fast, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        super().__init__(method, teacher, accelerator, seed)
        self.statistics = BatchNormStatistics(teacher, "fast", method.batch_norm_momentum)

        with seeding.seeded(seed, "fast", "generator"):
            generator = Generator(teacher.spec, method.z_dim, method.generator_channels, output="pixels")
        # This is the meta generator. It draws no image; an adapted copy does.
        self.generator = generator.to(accelerator.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=method.generator_learning_rate * method.generator_steps,
            betas=BETAS,
        )

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Makes one batch for the bank, then takes one step of the meta generator.

        Only the noise and the weights of the adapted copy get gradients.

        Returns:
            The unweighted terms of the last step: batch_norm, one_hot, agreed_divergence and penalty.
        """
        if 0 < self.method.reset_first_layer_round == self.index:
            self._reset_first_layer()

        with in_eval_mode(networks.student):
            figures = self._make_batch(networks)
        self.statistics.remember()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return figures

    def _make_batch(self, networks: Networks) -> dict[str, Tensor]:
        """Adapts a copy of the generator, keeps its best batch, and adds the gradients to the generator's."""
        noise, classes = self._draw_noise(), self.drawn_classes()
        adapted = copy.deepcopy(self.generator)
        weights = list(adapted.parameters())
        optimizer = self._inner_optimizer(weights, noise)
        best: tuple[Tensor, Tensor] | None = None
        figures: dict[str, Tensor] = {}

        for step in range(self.method.generator_steps):
            with self.accelerator.autocast():
                images = adapted(noise).to(self.teacher.image_mean.dtype)
                view = networks.view(self.augmented(images, "view", step))
                loss, figures = self._loss(view, classes, step)

            shared = loss.detach().clone()
            distributed.average_([shared])  # all processes keep the same step
            best = _better(best, (shared, images.detach()))

            self.accelerator.backward(loss, inputs=[*weights, noise])
            distributed.average_gradients(weights)
            distributed.own_gradient(noise)
            self._add_meta_gradients(weights)
            optimizer.step()
            optimizer.zero_grad()

        assert best is not None, "generator_steps is at least 1"
        self.keep(best[1], classes)
        return figures

    def _loss(self, view: View, classes: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted loss of a step, and the unweighted terms by name."""
        method = self.method
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()

        batch_norm = self.statistics.loss()
        classified = cross_entropy(teacher_logits, classes)
        agreed = torch.zeros_like(batch_norm)
        if self.index >= method.warmup_rounds:  # before, the student has learned nothing
            agreed = agreed_divergence(teacher_logits, view.student_logits())

        finished = step == method.generator_steps - 1
        penalty = view.penalty(teacher_logits, finished)
        loss = (
            method.batch_norm_weight * batch_norm
            + method.one_hot_weight * classified
            - method.adversarial_weight * agreed
            + penalty
        )
        figures = {
            "batch_norm": batch_norm,
            "one_hot": classified,
            "agreed_divergence": agreed,
            "penalty": penalty,
        }
        return loss, {name: value.detach() for name, value in figures.items()}

    def _draw_noise(self) -> Tensor:
        """Draws the round's noise and returns this process's rows, (N, z_dim), with gradient."""
        method = self.method
        noise = torch.randn(method.synthesis_batch_size, method.z_dim, generator=self.chance("z"))
        dtype = next(self.generator.parameters()).dtype
        return distributed.own_rows(noise).to(self.accelerator.device, dtype).requires_grad_()

    def _inner_optimizer(self, weights: list[nn.Parameter], noise: Tensor) -> torch.optim.Adam:
        """Returns a fresh Adam on the adapted weights and the noise."""
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": [noise], "lr": self.method.noise_learning_rate},
        ]
        return torch.optim.Adam(groups, lr=self.method.generator_learning_rate, betas=BETAS)

    def _add_meta_gradients(self, weights: list[nn.Parameter]) -> None:
        """Adds the gradients of the adapted copy to the gradients of the meta generator."""
        for shared, own in zip(self.generator.parameters(), weights, strict=True):
            shared.grad = own.grad if shared.grad is None or own.grad is None else shared.grad + own.grad

    @torch.no_grad()
    def _reset_first_layer(self) -> None:
        """Draws linear layer and first BatchNorm anew: weights from N(0, 0.02 squared), biases 0."""
        draws = self.chance("reset")
        for kind in (nn.Linear, nn.BatchNorm2d):
            layer = next(module for module in self.generator.modules() if isinstance(module, kind))
            layer.weight.copy_(RESET_STD * torch.randn(layer.weight.shape, generator=draws))
            layer.bias.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Returns bank, meta generator, its optimizer and moving averages; noise follows from the round."""
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": list(self.statistics.averages),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.statistics.averages = checkpoint.to_device(state["averages"], self.accelerator.device)


def _better(best: tuple[Tensor, Tensor] | None, latest: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the pair (loss, images) with the smaller loss, chosen on the device without waiting for it."""
    if best is None:
        return latest
    smaller = latest[0] < best[0]
    loss, images = (torch.where(smaller, new, old) for new, old in zip(latest, best, strict=True))
    return loss, images
