"""Implements plain distillation on real images (Hinton et al., 2015, arXiv 1503.02531), which is the control.

The method is not data-free. It shows the accuracy of the same student without synthetic images. It also shows
how much of a backdoor passes through images without a trigger. With defenses it shows their cost where no
image is synthesized. The defenses then see the training images, but no image of the evaluation. The published
control uses 20 % of the clean training set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.contracts import ImageSource, SynthesisMethod, Synthesizer, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.registry import register
from abd_hub.core.settings import CountOrNone, CountOrZero, PositiveShare
from abd_hub.learning import distributed
from abd_hub.learning.augment import check_padding, crop_and_flip
from abd_hub.synthesis.epochs import Epochs

OTHERS = 1000
"""Limits the images outside of the share that are kept to compare student and teacher on."""


@register("synthesizers", "real")
@dataclass(frozen=True, kw_only=True)
class Real(SynthesisMethod):
    """Plain distillation: learns from real images, or a share of them, as control and upper bound."""

    citation: ClassVar[str] = """@misc{hinton2015distilling,
  title  = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year   = {2015},
  note   = {arXiv:1503.02531}
}"""
    images: ClassVar[str] = "real images"
    data_free: ClassVar[bool] = False
    learns_images: ClassVar[bool] = False

    rounds: int = 8_000
    """Sets the number of rounds; each takes ``student_steps``."""
    batch_size: int = 128
    """Sets the images per student step; the processes share them."""
    student_steps: int = 10
    """Sets the student steps per round."""
    learning_rate: float = 2e-3
    """Sets the student's learning rate; from here it follows a cosine to zero."""
    clip_norm: float = 5.0
    """Limits the gradient norm of the student; 0 switches clipping off."""
    temperature: float = 1.0
    """Sets T of the KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 0.0
    """Weighs attention transfer over matching block outputs; 0 switches it off."""
    dataset: str = ""
    """Names the Hub id or local folder of the real images; their labels are not used."""
    split: str = "train"
    """Names the split of the real images, which must not be the split of the evaluation."""
    image_size: CountOrNone = None
    """Squashes every image to so many pixels in height and width, for data sets of several sizes."""
    share: PositiveShare = 0.2
    """Sets the share of the split that is used, drawn with the run's seed, in (0, 1]."""
    crop_padding: CountOrZero = 4
    """Pads images before random crops, by so many pixels; 0 for none."""
    flip: bool = True
    """Mirrors half of the images."""

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns small batches."""
        return {"batch_size": 64}

    def image_source(self) -> ImageSource | None:
        """Returns the data set and split that ``build`` needs.

        Raises:
            InputError: the data set is not set.
        """
        if not self.dataset:
            raise InputError("real.dataset: plain distillation needs a data set; set its Hub id or folder")
        return ImageSource(self.dataset, self.split, self.image_size)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> RealImages:
        """Returns a sampler over a seeded share of ``images``, (n, C, H, W) uint8.

        Raises:
            InputError: there are no images, or the padding is as large as an image.
        """
        if images is None:
            raise InputError("real.dataset: plain distillation needs images, got none; pass images to build")
        check_padding("real.crop_padding", self.crop_padding, images.shape[2], images.shape[3])

        order = torch.randperm(images.shape[0], generator=seeding.generator(seed, "real", "share"))
        count = max(1, round(self.share * images.shape[0]))
        kept = order[:count].sort().values
        others = images[order[count : count + OTHERS]]
        return RealImages(self, images[kept].to(accelerator.device), seed, others)


class RealImages(Synthesizer):
    """Goes through the images, in a new order each epoch."""

    def __init__(self, method: Real, images: Tensor, seed: int, others: Tensor | None = None) -> None:
        self.method = method
        self.images = images
        self.others = others
        self.seed = seed
        self.index = 0
        self.epochs = Epochs(images.shape[0], method.batch_size, seed, "real")

    def begin_round(self, index: int) -> None:
        """Stores the round, which decides the next images."""
        self.index = index

    def sample(self, step: int) -> Tensor | None:
        """Returns the next batch, this process's rows in [0, 1], augmented."""
        batch = self.index * self.method.student_steps + step
        chosen = distributed.own_rows(self.epochs.batch(batch))
        pixels = self.images[chosen.to(self.images.device)].float() / 255

        generator = seeding.generator(self.seed, "real", "augment", batch, seeding.LEGACY_RANK)
        share = distributed.world()
        return crop_and_flip(pixels, self.method.crop_padding, self.method.flip, generator, share)

    def unseen(self, count: int) -> Tensor | None:
        """Returns this process's part of images outside of the share that is used; None without any."""
        if self.others is None or not len(self.others):
            return None
        rank, processes = distributed.world()
        return self.others[:count][rank::processes].to(self.images.device).float() / 255
