"""Implements DeepInversion and Adaptive DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795, section 3).

The method has no generator. It optimizes the pixels of a batch x, from noise and for classes y, on

    L(x) = CE(T(x), y) + a_f R_feature(x) + a_tv R_TV(x) + a_l2 |x|_2 + a_c (1 - JS(T(x), S(x))).

R_feature is the distance to the teacher's BatchNorm statistics. JS is the Jensen-Shannon divergence, which
makes the method adaptive. x is in standard deviations of the teacher's images. In each step the whole batch
is shifted by up to two pixels, around the border, and mirrored with probability one half. The networks see
the result. After each step the pixels are clipped to [0, 1]. The images of the last step go into the bank.

The settings follow the paper's CIFAR-10 experiments, with Adam at a constant rate of 0.05 for 2,000 steps.
The paper's code for ImageNet warms the rate up and lowers it by a cosine (``image_schedule``). It also clips
and mirrors. The code for CIFAR-10 does neither. Here pixels are clipped, because the student learns from
images in [0, 1].

JS follows the paper, at the temperature 3 of its code. The code takes the divergence from the mean to both
predictions instead. It also clamps probabilities to [0.01, 0.99], and the gradient vanishes at the limits.

The student's schedule follows the baseline of the Fast project (arXiv 2112.06253). It has 200 rounds of 400
steps of SGD at 0.1, and T = 20.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.core.contracts import Networks, Teacher
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, CountOrZero, NotNegative, Positive
from abd_hub.learning import distributed
from abd_hub.learning.losses import cross_entropy, jensen_shannon, variations
from abd_hub.learning.modes import in_eval_mode
from abd_hub.learning.schedules import warmup_cosine
from abd_hub.synthesis.bank_synthesizer import BankMethod, BankSynthesizer
from abd_hub.synthesis.batch_norm import BatchNormStatistics

WARMUP = 0.05
"""Is the share of the image steps in which the cosine schedule rises, 100 of 2,000 in the paper's code."""


@register("synthesizers", "deepinversion")
@dataclass(frozen=True, kw_only=True)
class DeepInversion(BankMethod):
    """DeepInversion: optimizes pixels until the teacher takes them for its training data; slow."""

    citation: ClassVar[str] = """@inproceedings{yin2020dreaming,
  title     = {Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion},
  author    = {Yin, Hongxu and Molchanov, Pavlo and Alvarez, Jose M. and Li, Zhizhong and Mallya, Arun and
               Hoiem, Derek and Jha, Niraj K. and Kautz, Jan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  note      = {arXiv:1912.08795}
}"""

    rounds: int = 200
    """Sets the number of rounds. Each makes one batch of images and then takes ``student_steps``."""
    batch_size: int = 256
    """Sets the images per student step; they come from the bank, and the processes share them."""
    student_steps: int = 400
    """Sets the student steps per round."""
    learning_rate: float = 0.1
    """Sets the student's learning rate; from here it follows a cosine to zero."""
    image_steps: Count = 2_000
    """Sets the Adam steps on the pixels of a batch."""
    image_learning_rate: Positive = 0.05
    """Sets the pixels' learning rate, in standard deviations."""
    image_schedule: Literal["constant", "cosine"] = "constant"
    """Selects constant or cosine for the pixels' rate. The cosine rises over the first twentieth of the
    steps and then falls to zero."""
    batch_norm_weight: NotNegative = 10.0
    """Weighs the BatchNorm distance, the term that matches the teacher's statistics."""
    total_variation_weight: NotNegative = 2.5e-5
    """Weighs the total variation of the batch."""
    l2_weight: NotNegative = 3e-8
    """Weighs the L2 norm of the batch, in standard deviations."""
    competition_weight: NotNegative = 10.0
    """Weighs 1 - JS(teacher, student), the term of Adaptive DeepInversion. 0 gives plain DeepInversion, which
    needs no pass through the student."""
    competition_temperature: Positive = 3.0
    """Sets the temperature of both predictions in that divergence."""
    shift: CountOrZero = 2
    """Limits the shift of the batch in a step, in pixels. Pixels that leave the image enter opposite."""
    bank_size: int = 51_200
    """Limits the images kept; further ones replace the oldest. The default keeps all, 157 MB at 32x32."""
    flip: bool = True
    """Mirrors half of the images for the student, and the batch in half of the image steps."""

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns a quarter of the images, a twentieth of the image steps, and few student steps."""
        return {"batch_size": 64, "synthesis_batch_size": 64, "image_steps": 100, "student_steps": 30}

    def timed(self) -> tuple[DeepInversion, float]:
        """Times two steps on the pixels."""
        return dataclasses.replace(self, image_steps=2), self.image_steps / 2

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DeepInversionSynthesizer:
        """Returns DeepInversion at work, with an empty bank on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm, or the processes cannot share the batches.
        """
        return DeepInversionSynthesizer(self, teacher, accelerator, seed)


class DeepInversionSynthesizer(BankSynthesizer):
    """Runs DeepInversion. Every round begins anew, so the bank is the whole state."""

    method: DeepInversion

    def __init__(self, method: DeepInversion, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        super().__init__(method, teacher, accelerator, seed)
        self.statistics = BatchNormStatistics(teacher, "deepinversion")

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Makes one batch for the bank; only the pixels get gradients.

        Returns:
            The unweighted terms of the last step: one_hot, batch_norm, total_variation, l2, penalty and, with
            a positive weight, jensen_shannon.
        """
        images, classes = self._draw()
        optimizer = torch.optim.Adam([images], lr=self.method.image_learning_rate)
        figures: dict[str, Tensor] = {}

        with in_eval_mode(networks.student):
            for step, (down, right, mirrored) in enumerate(self._shifts()):
                optimizer.param_groups[0]["lr"] = self._rate(step)
                with self.accelerator.autocast():
                    moved = images.roll((down, right), dims=(2, 3))
                    moved = moved.flip(3) if mirrored else moved
                    loss, figures = self._loss(moved, classes, networks, step)

                self.accelerator.backward(loss, inputs=[images])
                distributed.own_gradient(images)
                optimizer.step()
                optimizer.zero_grad()
                self._clip(images)

        self.keep(self._pixels(images.detach()).clamp(0, 1), classes)
        return figures

    def _loss(
        self, images: Tensor, classes: Tensor, networks: Networks, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted loss of a step, and the unweighted terms by name."""
        method = self.method
        view = networks.view(self._pixels(images))
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()

        terms = {
            "one_hot": cross_entropy(teacher_logits, classes),
            "batch_norm": self.statistics.loss(),
            # These two are norms over the whole batch.
            "total_variation": distributed.norm(variations(images)).sum(),
            "l2": distributed.norm(images.norm()),
            "penalty": view.penalty(teacher_logits, step == method.image_steps - 1),
        }
        loss = (
            terms["one_hot"]
            + method.batch_norm_weight * terms["batch_norm"]
            + method.total_variation_weight * terms["total_variation"]
            + method.l2_weight * terms["l2"]
            + terms["penalty"]
        )

        if method.competition_weight:
            divergence = jensen_shannon(teacher_logits, view.student_logits(), method.competition_temperature)
            terms["jensen_shannon"] = divergence
            loss = loss + method.competition_weight * (1 - divergence)
        return loss, {name: term.detach() for name, term in terms.items()}

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Draws the first noise and the classes, and returns this process's rows, (N, C, H, W) and (N,)."""
        spec, count = self.spec, self.method.synthesis_batch_size
        noise = torch.randn(count, spec.channels, spec.height, spec.width, generator=self.chance("noise"))
        # Each round continues the cycle of classes, so that all classes are equally frequent.
        classes = (torch.arange(count) + self.index * count) % spec.num_classes
        images = distributed.own_rows(noise).to(self.accelerator.device, self.teacher.image_mean.dtype)
        return images.requires_grad_(), distributed.own_rows(classes).to(self.accelerator.device)

    def _shifts(self) -> list[tuple[int, int, bool]]:
        """Draws down, right and mirrored for each step, at once because a generator a step costs more."""
        generator, steps, limit = self.chance("shifts"), self.method.image_steps, self.method.shift
        places = torch.randint(-limit, limit + 1, (steps, 2), generator=generator).tolist()
        mirrored = (torch.rand(steps, generator=generator) < (0.5 if self.method.flip else 0.0)).tolist()
        return [(down, right, mirror) for (down, right), mirror in zip(places, mirrored, strict=True)]

    def _rate(self, step: int) -> float:
        """Returns the rate of the Adam on the pixels in a step."""
        rate, steps = self.method.image_learning_rate, self.method.image_steps
        if self.method.image_schedule == "constant":
            return rate
        return warmup_cosine(
            rate, step + 0.5, steps, WARMUP
        )  # the middle of the step, so that no step has the rate 0

    def _pixels(self, images: Tensor) -> Tensor:
        """Turns standard deviations into pixels."""
        return images * self.teacher.image_std + self.teacher.image_mean

    @torch.no_grad()
    def _clip(self, images: Tensor) -> None:
        """Clips images, in standard deviations, to pixels in [0, 1], in place."""
        mean, std = self.teacher.image_mean, self.teacher.image_std
        images.clamp_(-mean / std, (1 - mean) / std)
