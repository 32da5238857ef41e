"""What methods with an image bank share: keeping images for the student and drawing its batches."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from abd_hub import distributed, seeding
from abd_hub.augment import check_padding, crop_and_flip
from abd_hub.image_bank import DeviceImageBank
from abd_hub.types import DataSpec, InputError, SynthesisMethod, Synthesizer


class BankSynthesizer(Synthesizer):
    """A method whose ``update`` fills a bank; the student's batches are drawn from it, cropped and flipped.

    Args:
        method: gives batch size and student steps.
        spec: of the images.
        accelerator: gives device and precision.
        seed: of every draw.
        bank_size: images kept.
        crop_padding: the student sees random crops after padding by so many pixels; 0 for none.
        flip: and mirrored with probability one half.

    Raises:
        InputError: the precision is fp16, or the padding is as large as the image.
    """

    def __init__(
        self,
        method: SynthesisMethod,
        spec: DataSpec,
        accelerator: Accelerator,
        seed: int,
        *,
        bank_size: int,
        crop_padding: int,
        flip: bool,
    ) -> None:
        if accelerator.mixed_precision == "fp16":
            raise InputError(
                "trainer.mixed_precision: fp16 would need a loss scale for every batch of images that is "
                "made; use bf16 or no with this method"
            )
        name = f"{type(method).__name__.lower()}.crop_padding"
        check_padding(name, crop_padding, spec.height, spec.width)
        self.method = method
        self.spec = spec
        self.accelerator = accelerator
        self.seed = seed
        self.crop_padding = crop_padding
        self.flip = flip
        self.index = 0
        self._bank = DeviceImageBank(spec, bank_size, accelerator.device)

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
        return crop_and_flip(
            pixels, self.crop_padding, self.flip, self.chance("augment", step, distributed.world()[0])
        )

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


def check_shared(field: str, images: int, processes: int) -> None:
    """Refuses a batch to be made that the processes cannot share.

    Args:
        field: of the method, for the error.
        images: over all processes together.
        processes: how many there are.

    Raises:
        InputError: the shares are not equal, or smaller than 2 images.
    """
    if images % processes or images < 2 * processes:
        raise InputError(
            f"{field}: must be a multiple of the {processes} processes and at least 2 images for each, "
            f"got {images}"
        )
