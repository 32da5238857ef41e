"""Fast (Fang et al., AAAI 2022, arXiv 2112.06253, "Up to 100x Faster Data-free Knowledge Distillation").

One meta generator G with weights w learns what the images of a data set share; from it a new batch takes ten
steps instead of the thousands that pixels or a fresh generator take. In each round, with fresh noise z_0,
classes y and w_0 = w, for k = 0 ... K - 1:

    x_k = augment(G(z_k; w_k)),
    L_k = 10 R(x_k) + 0.4 CE(T(x_k), y) - 1.1 mean_i m_i KL(T(x_ik) || S(x_ik)),
    (w_{k+1}, z_{k+1}) = one step of Adam on L_k from (w_k, z_k), its moments fresh in every round,

where R matches BatchNorm statistics, smoothed over the rounds, and m_i = 1 where teacher and student choose
the same class. The batch G(z_k; w_k) of the smallest L_k goes into the bank. Then w learns by first-order
MAML, with an Adam that lives as long as the run:

    g = sum_k dL_k / dw_k,    w = Adam(w, g) with a rate of K times the inner one.

The gradients are summed, as in the published code; Adam does not see their scale, so it is the rate that
makes one outer step as long as all inner ones. The student learns from the bank alone.
"""

from __future__ import annotations

import copy
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
"""Of both Adams."""
RESET_STD = 0.02
"""Deviation of the weights that are drawn anew at the reset."""


@register("synthesizers", "fast")
@dataclass(frozen=True, kw_only=True)
class Fast(BankMethod):
    """Fast: a meta-learned generator makes a batch in ten steps; the student learns from a bank of them."""

    citation: ClassVar[str] = """@inproceedings{fang2022fast,
  title     = {Up to 100x Faster Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Mo, Kanya and Wang, Xinchao and Song, Jie and Bei, Shitao and
               Zhang, Haofei and Song, Mingli},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2022},
  note      = {arXiv:2112.06253}
}"""

    rounds: int = 220
    """Rounds in all: one batch of images is made in each, then ``student_steps`` student steps."""
    batch_size: int = 256
    """Images in a student step, drawn from the bank, over all processes together."""
    student_steps: int = 400
    """Student steps in a round after the warm-up."""
    learning_rate: float = 0.2
    """Of the student's optimizer at the start; cosine to zero."""
    warmup_rounds: CountOrZero = 20
    """First rounds, which fill the bank only: no student steps and no adversarial term."""
    generator_steps: Count = 10
    """Steps on generator and noise in a round. The paper's other settings: 5 with generator_learning_rate
    3e-3, 2 with 5e-3 and noise_learning_rate 0.015."""
    generator_learning_rate: Positive = 2e-3
    """Of the Adam that adapts a copy of the generator; the meta generator's: ``generator_steps`` times it."""
    noise_learning_rate: Positive = 1e-2
    """Of the Adam that adapts the noise."""
    batch_norm_weight: NotNegative = 10.0
    """Weight of the distance to the teacher's BatchNorm statistics."""
    batch_norm_momentum: ShareBelowOne = 0.9
    """Weight of earlier rounds in the statistics that are compared, in [0, 1)."""
    one_hot_weight: NotNegative = 0.4
    """Weight of the cross-entropy with the class that an image is made for. The published runs have 0.4 for
    WRN-40-2 teachers, 0.5 for others."""
    adversarial_weight: NotNegative = 1.1
    """Weight of KL(teacher || student) where both choose the same class, which is maximized. The published
    runs have 1.1 for WRN-40-2 teachers, 1.33 for ResNet-34 and 1.0 for VGG-11."""
    reset_first_layer_round: CountOrZero = 139
    """Round, counted from 0, before which the generator's linear layer and the BatchNorm after it are drawn
    anew, for diversity; 0 for never."""
    z_dim: Count = 256
    """Length of the noise vector."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Feature maps of the generator's first half; its second half has half as many."""
    bank_size: int = 56_320
    """Images kept; further ones replace the oldest. By default all that a run makes, 173 MB at 32x32."""
    crop_padding: int = 4
    """Random crops after padding by so many pixels, for generator and student; 0 for none."""
    flip: bool = True
    """Mirror half of the images, for generator and student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_rounds >= self.rounds:
            raise self.refusal("warmup_rounds", f"must be below rounds, {self.rounds}", self.warmup_rounds)

    def steps_in(self, index: int) -> int:
        """None in the warm-up, then ``student_steps``."""
        return 0 if index < self.warmup_rounds else self.student_steps

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> FastSynthesizer:
        """The meta generator with its optimizer and an empty bank, on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm, or the processes cannot share the batches.
        """
        return FastSynthesizer(self, teacher, accelerator, seed)


class FastSynthesizer(BankSynthesizer):
    """Fast at work."""

    method: Fast

    def __init__(self, method: Fast, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        super().__init__(method, teacher, accelerator, seed)
        self.statistics = BatchNormStatistics(teacher, "fast", method.batch_norm_momentum)
        with seeding.seeded(seed, "fast", "generator"):
            generator = Generator(teacher.spec, method.z_dim, method.generator_channels, output="pixels")
        # Its weights are those of the meta generator; it draws no image itself, a copy does.
        self.generator = generator.to(accelerator.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=method.generator_learning_rate * method.generator_steps,
            betas=BETAS,
        )

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Makes one batch for the bank, then one step of the meta generator.

        Only noise and weights of the adapted copy get gradients; teacher and student pass them on.

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
        assert best is not None, "there is at least one step"
        self.keep(best[1], classes)
        return figures

    def _loss(self, view: View, classes: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        method = self.method
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()

        batch_norm = self.statistics.loss()
        classified = cross_entropy(teacher_logits, classes)
        agreed = torch.zeros_like(batch_norm)
        if self.index >= method.warmup_rounds:  # before that, the student has learned nothing to disagree on
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
        """This process's rows of the round's noise, with gradient."""
        method = self.method
        noise = torch.randn(method.synthesis_batch_size, method.z_dim, generator=self.chance("z"))
        dtype = next(self.generator.parameters()).dtype
        return distributed.own_rows(noise).to(self.accelerator.device, dtype).requires_grad_()

    def _inner_optimizer(self, weights: list[nn.Parameter], noise: Tensor) -> torch.optim.Adam:
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": [noise], "lr": self.method.noise_learning_rate},
        ]
        return torch.optim.Adam(groups, lr=self.method.generator_learning_rate, betas=BETAS)

    def _add_meta_gradients(self, weights: list[nn.Parameter]) -> None:
        for shared, own in zip(self.generator.parameters(), weights, strict=True):
            shared.grad = own.grad if shared.grad is None or own.grad is None else shared.grad + own.grad

    @torch.no_grad()
    def _reset_first_layer(self) -> None:
        """Linear layer and the BatchNorm after it: weights from N(0, 0.02 squared), biases zero."""
        chance = self.chance("reset")
        for kind in (nn.Linear, nn.BatchNorm2d):
            layer = next(module for module in self.generator.modules() if isinstance(module, kind))
            layer.weight.copy_(RESET_STD * torch.randn(layer.weight.shape, generator=chance))
            layer.bias.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Bank, meta generator with its optimizer, and the moving averages; noise follows from the round."""
        return super().state_dict() | {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": list(self.statistics.averages),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.statistics.averages = checkpoint.to_device(state["averages"], self.accelerator.device)


def _better(best: tuple[Tensor, Tensor] | None, latest: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(loss, images) of the smaller loss, chosen on the device: a comparison in Python would wait for it."""
    if best is None:
        return latest
    smaller = latest[0] < best[0]
    loss, images = (torch.where(smaller, new, old) for new, old in zip(latest, best, strict=True))
    return loss, images
