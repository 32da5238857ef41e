"""What methods with an image bank share: settings, keeping images for the student, drawing its batches."""

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
    """A method that makes one batch of images a round, for a bank from which the student learns.

    The student learns as in the code of Fast (arXiv 2112.06253), where it is the same for all such methods.
    """

    optimizer: Literal["adam", "sgd"] = "sgd"
    """Of the student: adam or sgd."""
    weight_decay: float = 1e-4
    """Of the student's optimizer, added to the gradient."""
    clip_norm: float = 0.0
    """Largest gradient norm of the student; 0 switches clipping off."""
    temperature: float = 20.0
    """T of the student's KL divergence."""
    temperature_squared: bool = True
    """Multiply the KL divergence by T squared (Hinton et al., 2015), which keeps its gradient's size."""
    attention_weight: float = 0.0
    """Weight of attention transfer over matching block outputs; 0 switches it off."""
    synthesis_batch_size: Count = 256
    """Images made in a round, over all processes together."""
    bank_size: Count
    """Images kept for the student; further ones replace the oldest."""
    crop_padding: CountOrZero = 4
    """The student sees random crops after padding by so many pixels; 0 for none."""
    flip: bool = True
    """Mirror half of the images for the student."""


class BankSynthesizer(Synthesizer):
    """A method whose ``update`` fills a bank; the student's batches are drawn from it, cropped and flipped.

    Args:
        method: its class name in lower case names its fields in errors.
        teacher: gives size and classes of the images.
        accelerator: gives device, precision and number of processes.
        seed: of every draw.

    Raises:
        InputError: the processes cannot share the batches, the precision is fp16, or the padding is as large
            as the image.
    """

    def __init__(self, method: BankMethod, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        name, spec = type(method).__name__.lower(), teacher.spec
        _check_shared(f"{name}.synthesis_batch_size", method.synthesis_batch_size, accelerator.num_processes)
        if accelerator.mixed_precision == "fp16":
            raise InputError(
                "trainer.mixed_precision: fp16 would need a loss scale for every batch of images that is "
                "made; use bf16 or no with this method"
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
        """Remembers the round: every draw in it follows from seed and round."""
        self.index = index

    def keep(self, pixels: Tensor, labels: Tensor) -> None:
        """Adds what all processes have made to the bank of each.

        Args:
            pixels: (N, C, H, W) in [0, 1], of this process.
            labels: (N,).
        """
        self._bank.add(distributed.gather_rows(pixels), distributed.gather_rows(labels))

    def sample(self, step: int) -> Tensor | None:
        """A batch from the bank in [0, 1], augmented."""
        places = self._bank.draw(self.method.batch_size, self.chance("draw", step))
        pixels = self._bank.pixels(distributed.own_rows(places))
        return self.augmented(pixels, "augment", step)

    def augmented(self, pixels: Tensor, *purpose: str | int) -> Tensor:
        """This process's rows, cropped after padding and mirrored, by draws for the global batch."""
        chance, share = self.chance(*purpose, seeding.LEGACY_RANK), distributed.world()
        return crop_and_flip(pixels, self.method.crop_padding, self.method.flip, chance, share)

    def drawn_classes(self) -> Tensor:
        """This process's rows of the round's classes to be made, drawn at random, (N,) int64."""
        count, chance = self.method.synthesis_batch_size, self.chance("classes")
        classes = torch.randint(self.spec.num_classes, (count,), generator=chance)
        return distributed.own_rows(classes).to(self.accelerator.device)

    def chance(self, *purpose: str | int) -> Any:
        """A generator for one purpose of this round."""
        return seeding.generator(self.seed, type(self.method).__name__, self.index, *purpose)

    def bank(self) -> DeviceImageBank:
        """The images kept so far."""
        return self._bank

    def state_dict(self) -> dict[str, Any]:
        """The bank."""
        return {"bank": self._bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._bank.load_state_dict(state["bank"])


def _check_shared(field: str, images: int, processes: int) -> None:
    """Refuses a batch to be made of which the processes' shares are not equal, or of less than 2 images."""
    if images % processes or images < 2:
        raise InputError(
            f"{field}: must be a multiple of the {processes} processes, at least 2, got {images}"
        )
