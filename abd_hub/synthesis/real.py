"""Plain distillation on real images (Hinton et al., 2015, arXiv 1503.02531): the control, not data-free.

It shows what the same student reaches without synthetic images, and how much of a backdoor comes through
images that hold no trigger. With defenses it shows what they cost where there is nothing to synthesize; they
see the training images then, never those the student is measured on. The published control uses 20 % of
the clean training set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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


@register("synthesizers", "real")
@dataclass(frozen=True, kw_only=True)
class Real(SynthesisMethod):
    """Plain distillation on real images or a seeded share of them: the control and upper bound."""

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
    """Rounds of ``student_steps`` student steps, each on its own batch."""
    batch_size: int = 128
    """Images in a student step, over all processes together."""
    student_steps: int = 10
    """Student steps in a round."""
    learning_rate: float = 2e-3
    """Of the student's Adam at the start; cosine to zero."""
    clip_norm: float = 5.0
    """Largest gradient norm of the student; 0 switches clipping off."""
    temperature: float = 1.0
    """Of the student's KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 0.0
    """Weight of attention transfer over matching block outputs; 0 switches it off."""
    dataset: str = ""
    """Hub id or local folder of the real images; their labels are not used."""
    split: str = "train"
    """Split of the real images. Never the one that is used for evaluation."""
    image_size: CountOrNone = None
    """Resize every image to so many pixels in height and width, for data sets of several sizes."""
    share: PositiveShare = 0.2
    """Share of the split that is used, drawn with the run's seed."""
    crop_padding: CountOrZero = 4
    """Random crops after padding by so many pixels; 0 for none."""
    flip: bool = True
    """Mirror half of the images."""

    def image_source(self) -> ImageSource | None:
        """The data set and split that ``build`` needs."""
        if not self.dataset:
            raise InputError("real.dataset: plain distillation needs a data set; give its Hub id or folder")
        return ImageSource(self.dataset, self.split, self.image_size)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> RealImages:
        """A sampler over ``images``, uint8 (n, C, H, W), of which it keeps a seeded share."""
        if images is None:
            raise InputError("real.dataset: plain distillation needs images; none were given")
        check_padding("real.crop_padding", self.crop_padding, images.shape[2], images.shape[3])
        kept = torch.randperm(images.shape[0], generator=seeding.generator(seed, "real", "share"))
        kept = kept[: max(1, round(self.share * images.shape[0]))].sort().values
        return RealImages(self, images[kept].to(accelerator.device), seed)


class RealImages(Synthesizer):
    """Goes through the images in a new order each epoch."""

    def __init__(self, method: Real, images: Tensor, seed: int) -> None:
        self.method = method
        self.images = images
        self.seed = seed
        self.index = 0
        self.epochs = Epochs(images.shape[0], method.batch_size, seed, "real")

    def begin_round(self, index: int) -> None:
        """Remembers the round: which images come next follows from it."""
        self.index = index

    def sample(self, step: int) -> Tensor | None:
        """The next batch in [0, 1], augmented."""
        batch = self.index * self.method.student_steps + step
        chosen = distributed.own_rows(self.epochs.batch(batch))
        pixels = self.images[chosen.to(self.images.device)].float() / 255
        chance = seeding.generator(self.seed, "real", "augment", batch, seeding.LEGACY_RANK)
        share = distributed.world()
        return crop_and_flip(pixels, self.method.crop_padding, self.method.flip, chance, share)
