"""DeepInversion and Adaptive DeepInversion (Yin et al., CVPR 2020, arXiv 1912.08795, section 3).

No generator: the pixels of a batch x are what is optimized, from noise, for classes y,

    L(x) = CE(T(x), y) + a_f R_feature(x) + a_tv R_TV(x) + a_l2 |x|_2 + a_c (1 - JS(T(x), S(x))),

with R_feature the distance to the teacher's BatchNorm statistics and JS the Jensen-Shannon divergence, which
makes the method adaptive. x is in standard deviations of the teacher's images. In each step the whole batch
is shifted by up to two pixels, around the border, and mirrored with probability one half before the networks
see it; after each step the pixels are clipped to [0, 1]. The images of the last step go into the bank.

Settings are those of the paper's CIFAR-10 experiments: Adam at a constant rate of 0.05, 2,000 steps. Its code
for ImageNet warms the rate up and lowers it by a cosine (``image_schedule``), clips and mirrors; the code for
CIFAR-10 does neither, but pixels that are not clipped could not be shown to the student as images. JS is the
paper's, at the temperature 3 of its code; that code takes the divergence from the mean to both instead, and
clamps probabilities to [0.01, 0.99], where the gradient vanishes.

The student's schedule is that of the baseline in the Fast project (arXiv 2112.06253): 200 rounds of 400 steps
of SGD at 0.1, T = 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
"""Share of the image steps over which the cosine schedule rises: 100 of 2,000 in the paper's code."""


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
    """Rounds in all: one batch of images is made in each, then ``student_steps`` student steps."""
    batch_size: int = 256
    """Images in a student step, drawn from the bank, over all processes together."""
    student_steps: int = 400
    """Student steps in a round."""
    learning_rate: float = 0.1
    """Of the student's optimizer at the start; cosine to zero."""
    image_steps: Count = 2_000
    """Adam steps on the pixels of a batch."""
    image_learning_rate: Positive = 0.05
    """Of the Adam on the pixels, in standard deviations."""
    image_schedule: Literal["constant", "cosine"] = "constant"
    """Of that rate: constant, or cosine: a rise over the first twentieth of the steps, then to zero."""
    batch_norm_weight: NotNegative = 10.0
    """Weight of the distance to the teacher's BatchNorm statistics."""
    total_variation_weight: NotNegative = 2.5e-5
    """Weight of the total variation of the batch."""
    l2_weight: NotNegative = 3e-8
    """Weight of the L2 norm of the batch, in standard deviations."""
    competition_weight: NotNegative = 10.0
    """Weight of 1 - JS(teacher, student), Adaptive DeepInversion; 0 for plain DeepInversion, which needs no
    pass through the student."""
    competition_temperature: Positive = 3.0
    """Temperature of both predictions in that divergence."""
    shift: CountOrZero = 2
    """Largest shift of the batch in a step, in pixels; what leaves the image enters at the other side."""
    bank_size: int = 51_200
    """Images kept; further ones replace the oldest. By default all that a run makes, 157 MB at 32x32."""
    flip: bool = True
    """Mirror half of the images for the student, and the batch in half of the image steps."""

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> DeepInversionSynthesizer:
        """An empty bank, on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm, or the processes cannot share the batches.
        """
        return DeepInversionSynthesizer(self, teacher, accelerator, seed)


class DeepInversionSynthesizer(BankSynthesizer):
    """DeepInversion at work. It begins anew in every round, so the bank is all of its state."""

    method: DeepInversion

    def __init__(self, method: DeepInversion, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        super().__init__(method, teacher, accelerator, seed)
        self.statistics = BatchNormStatistics(teacher, "deepinversion")

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Makes one batch for the bank; only its pixels get gradients.

        Returns:
            The unweighted terms of the last step: one_hot, batch_norm, total_variation, l2, penalty
            and, where it has a weight, jensen_shannon.
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
        method = self.method
        view = networks.view(self._pixels(images))
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()

        terms = {
            "one_hot": cross_entropy(teacher_logits, classes),
            "batch_norm": self.statistics.loss(),
            # norms over the whole batch
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
        """This process's rows of the noise that the images begin with, (N, C, H, W), and of their classes."""
        spec, count = self.spec, self.method.synthesis_batch_size
        noise = torch.randn(count, spec.channels, spec.height, spec.width, generator=self.chance("noise"))
        # Every class as often as any other: a round goes on where the one before ended.
        classes = (torch.arange(count) + self.index * count) % spec.num_classes
        images = distributed.own_rows(noise).to(self.accelerator.device, self.teacher.image_mean.dtype)
        return images.requires_grad_(), distributed.own_rows(classes).to(self.accelerator.device)

    def _shifts(self) -> list[tuple[int, int, bool]]:
        """Down, right and mirrored for each step; drawn at once, as a generator a step costs more."""
        chance, steps, limit = self.chance("shifts"), self.method.image_steps, self.method.shift
        places = torch.randint(-limit, limit + 1, (steps, 2), generator=chance).tolist()
        mirrored = (torch.rand(steps, generator=chance) < (0.5 if self.method.flip else 0.0)).tolist()
        return [(down, right, mirror) for (down, right), mirror in zip(places, mirrored, strict=True)]

    def _rate(self, step: int) -> float:
        rate, steps = self.method.image_learning_rate, self.method.image_steps
        if self.method.image_schedule == "constant":
            return rate
        return warmup_cosine(rate, step + 0.5, steps, WARMUP)  # its middle: no step has the rate 0

    def _pixels(self, images: Tensor) -> Tensor:
        return images * self.teacher.image_std + self.teacher.image_mean

    @torch.no_grad()
    def _clip(self, images: Tensor) -> None:
        mean, std = self.teacher.image_mean, self.teacher.image_std
        images.clamp_(-mean / std, (1 - mean) / std)
