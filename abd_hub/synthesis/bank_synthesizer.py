"""Holds the parts that all methods with an image bank share: settings, the bank, the student's batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.contracts import SynthesisMethod, Synthesizer, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.settings import Count, CountOrZero
from abd_hub.learning import distributed
from abd_hub.learning.augment import check_padding, crop_and_flip
from abd_hub.learning.image_bank import DeviceImageBank


@dataclass(frozen=True, kw_only=True)
class BankMethod(SynthesisMethod):
    """Describes a method that makes one batch of images a round for a bank, from which the student learns.

    The student learns as in the code of Fast (arXiv 2112.06253), which treats all such methods alike.
    """

    optimizer: Literal["adam", "sgd"] = "sgd"
    """Selects the student's optimizer, adam or sgd."""
    weight_decay: float = 1e-4
    """Sets the weight decay of the student's optimizer, which is added to the gradient."""
    clip_norm: float = 0.0
    """Limits the gradient norm of the student; 0 switches clipping off."""
    temperature: float = 20.0
    """Sets T of the student's KL divergence."""
    temperature_squared: bool = True
    """Multiplies the KL divergence by T squared (Hinton et al., 2015), which keeps its gradient's size."""
    attention_weight: float = 0.0
    """Weighs attention transfer over matching block outputs; 0 switches it off."""
    synthesis_batch_size: Count = 256
    """Sets the images made per round; the processes share them."""
    bank_size: Count
    """Limits the images kept for the student; further ones replace the oldest."""
    crop_padding: CountOrZero = 4
    """Pads images before random crops, by so many pixels; 0 for none."""
    flip: bool = True
    """Mirrors half of the images for the student."""


class BankSynthesizer(Synthesizer):
    """Fills a bank in ``update`` and draws the student's batches from it, cropped and mirrored.

    Args:
        method: settings; errors name a field after the class name in lower case.
        teacher: gives size and classes of the images.
        accelerator: gives device, precision and number of processes.
        seed: seed of every draw.

    Raises:
        InputError: the processes cannot share the batches, the precision is fp16, or the padding is as large
            as the image.
    """

    def __init__(self, method: BankMethod, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        name, spec = type(method).__name__.lower(), teacher.spec
        _check_shared(f"{name}.synthesis_batch_size", method.synthesis_batch_size, accelerator.num_processes)
        if accelerator.mixed_precision == "fp16":
            raise InputError(
                "trainer.mixed_precision: fp16 would need its own loss scale for every batch of images; "
                "use bf16 or no with this method"
            )
        check_padding(f"{name}.crop_padding", method.crop_padding, spec.height, spec.width)

        self.method = method
        self.teacher = teacher
        self.spec = spec
        self.accelerator = accelerator
        self.seed = seed
        self.index = 0
        self._bank = DeviceImageBank(spec, method.bank_size, accelerator.device)

    def begin_round(self, index: int) -> None:
        """Stores the round, because every draw in it follows from seed and round."""
        self.index = index

    def keep(self, pixels: Tensor, labels: Tensor) -> None:
        """Adds the images of all processes to the bank of each process.

        Args:
            pixels: (N, C, H, W) in [0, 1], of this process.
            labels: (N,) int64, the classes that the images were made for.
        """
        self._bank.add(distributed.gather_rows(pixels), distributed.gather_rows(labels))

    def sample(self, step: int) -> Tensor | None:
        """Returns an augmented batch from the bank, (N, C, H, W) in [0, 1]."""
        places = self._bank.draw(self.method.batch_size, self.chance("draw", step))
        pixels = self._bank.pixels(distributed.own_rows(places))
        return self.augmented(pixels, "augment", step)

    def unseen(self, count: int) -> Tensor | None:
        """Returns this process's part of the images that the present round has made."""
        rank, processes = distributed.world()
        return self._bank.newest(min(count, self.method.synthesis_batch_size))[rank::processes]

    def augmented(self, pixels: Tensor, *purpose: str | int) -> Tensor:
        """Returns this process's rows, cropped after padding and mirrored, by draws for the global batch."""
        generator, share = self.chance(*purpose, seeding.LEGACY_RANK), distributed.world()
        return crop_and_flip(pixels, self.method.crop_padding, self.method.flip, generator, share)

    def drawn_classes(self) -> Tensor:
        """Draws the classes of the round's images and returns this process's rows, (N,) int64."""
        count, generator = self.method.synthesis_batch_size, self.chance("classes")
        classes = torch.randint(self.spec.num_classes, (count,), generator=generator)
        return distributed.own_rows(classes).to(self.accelerator.device)

    def chance(self, *purpose: str | int) -> Any:
        """Returns a random generator for one purpose in this round."""
        return seeding.generator(self.seed, type(self.method).__name__, self.index, *purpose)

    def bank(self) -> DeviceImageBank:
        """Returns the bank with the images kept so far."""
        return self._bank

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the bank."""
        return {"bank": self._bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        self._bank.load_state_dict(state["bank"])


def _check_shared(field: str, images: int, processes: int) -> None:
    """Refuses a number of images that the processes cannot share equally, or that is below 2."""
    if images % processes or images < 2:
        raise InputError(
            f"{field}: must be at least 2 and a multiple of {processes}, the number of processes, "
            f"got {images}"
        )
