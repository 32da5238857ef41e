"""Implements distillation on patches of a photograph (Asano & Saeed, ICLR 2023, arXiv 2112.00725).

The method has no generator. 50,000 patches of one or a few pictures replace the training data. They are
cropped at very different scales, turned, sheared and recolored (see ``patches``). A patch belongs to no
class, so the student S learns the soft answers of the teacher T:

    KL(softmax(T(x) / 8) || softmax(S(x) / 8)).

x is a patch, mirrored and shifted anew each time, with a box of another patch pasted in (CutMix). The teacher
answers the mixed image, so there are no labels to mix.

The pictures have another distribution than the teacher's training data ("ood"), and rich pictures teach the
student more. The paper uses crowded scenes. The default here is two photographs of 640x427 with much sky and
shadow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.contracts import SynthesisMethod, Synthesizer, Teacher
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, CountOrZero, NotNegative, Positive
from abd_hub.learning import distributed
from abd_hub.learning.augment import check_padding, crop_and_flip, cutmix, draw_box
from abd_hub.synthesis.epochs import Epochs
from abd_hub.synthesis.patches import make_patches
from abd_hub.synthesis.photographs import Photograph, check_names, load


@register("synthesizers", "ood")
@dataclass(frozen=True, kw_only=True)
class Ood(SynthesisMethod):
    """Patches of photographs: crops, turns and recolors one or a few pictures; needs no generator."""

    citation: ClassVar[str] = """@inproceedings{asano2023augmented,
  title     = {The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image},
  author    = {Asano, Yuki M. and Saeed, Aaqib},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  note      = {arXiv:2112.00725}
}"""
    images: ClassVar[str] = "patches of photographs"
    data_free: ClassVar[bool] = False
    learns_images: ClassVar[bool] = False

    rounds: int = 9_800
    """Sets the number of rounds; each takes ``student_steps``. The default gives the paper's 1,000 epochs
    over 50,000 patches."""
    batch_size: int = 512
    """Sets the images per student step; the processes share them."""
    student_steps: int = 10
    """Sets the student steps per round."""
    learning_rate: float = 1e-3
    """Sets the student's learning rate; from here it follows a cosine to zero. The paper's rate is
    constant."""
    clip_norm: float = 0.0
    """Limits the gradient norm of the student; 0 switches clipping off."""
    temperature: float = 8.0
    """Sets T of the KL divergence; the result is not scaled by T squared."""
    attention_weight: float = 0.0
    """Weighs attention transfer over matching block outputs; 0 switches it off."""
    pictures: tuple[str, ...] = ("sklearn:china.jpg", "sklearn:flower.jpg")
    """Lists pictures, which all give the same number of patches: files,
    hf://datasets/org/name@revision/picture.jpg on the Hub, or scikit-learn's own sklearn:china.jpg and
    sklearn:flower.jpg."""
    patches: Count = 50_000
    """Sets the patches in all, made before the first round and kept on the device."""
    memory_limit: Positive = 2.0
    """Limits the size of all patches, in GiB; a run with more is refused. The default 50,000 patches take
    0.14 at 32x32, 0.57 at 64x64, 7.0 at 224x224."""
    crop_padding: CountOrZero = 4
    """Pads images before random crops, by so many pixels; 0 for none."""
    flip: bool = True
    """Mirrors half of the images."""
    cutmix: NotNegative = 0.25
    """Sets both parameters of the beta distribution of the pasted box's share, with one box a batch; 0
    switches CutMix off."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns small batches of few patches for a short run."""
        return {"batch_size": 64, "patches": 2000, "crop_padding": 0}

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns small batches and SGD: a student learned more from 60,000 patches than by Adam."""
        return {
            "batch_size": 64,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "learning_rate_warmup": 0.2,
            "weight_decay": 5e-4,
            "clip_norm": 5.0,
            "temperature": 4.0,
            "temperature_squared": True,
        }

    def timed(self) -> tuple[Ood, float]:
        """Makes a batch of patches only, because every round shows other ones."""
        return dataclasses.replace(self, patches=min(self.patches, self.batch_size)), 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # YAML gives a list. The class is frozen, so only object can set the field.
        object.__setattr__(self, "pictures", tuple(self.pictures))
        check_names("ood.pictures", self.pictures)

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> OodPatches:
        """Loads the pictures and makes the patches, on the accelerator's device.

        Raises:
            InputError: the patches exceed ``memory_limit``, the padding is as large as a patch, or a picture
                cannot be read. The teacher must have 1 or 3 channels.
        """
        self._check_spec(teacher.spec)
        check_padding("ood.crop_padding", self.crop_padding, teacher.spec.height, teacher.spec.width)
        photographs = [load("ood.pictures", name) for name in self.pictures]
        return OodPatches(self, photographs, teacher.spec, accelerator.device, seed)

    def _check_spec(self, spec: DataSpec) -> None:
        """Refuses images that are neither gray nor RGB, and more patches than the memory limit allows."""
        if spec.channels not in (1, 3):
            raise InputError(
                f"ood: photographs have 3 channels, or 1 in gray, but the teacher takes {spec.channels}; "
                "use zskt or dfad, which take any number"
            )

        one = spec.channels * spec.height * spec.width
        most = math.floor(self.memory_limit * 2**30 / one)
        if self.patches > most:
            raise InputError(
                f"ood.patches: {self.patches} patches of {spec.channels}x{spec.height}x{spec.width} take "
                f"{self.patches * one / 2**30:.2g} GiB; use at most {most}, or raise ood.memory_limit"
            )


class OodPatches(Synthesizer):
    """Goes through the patches, in a new order each epoch."""

    def __init__(
        self,
        method: Ood,
        photographs: Sequence[Photograph],
        spec: DataSpec,
        device: torch.device,
        seed: int,
    ) -> None:
        self.method = method
        self.seed = seed
        self.index = 0

        self.sources: list[dict[str, Any]] = [
            {
                "name": photograph.name,
                "revision": photograph.revision,
                "sha256": photograph.sha256,
                "height": photograph.pixels.shape[1],
                "width": photograph.pixels.shape[2],
            }
            for photograph in photographs
        ]

        self.patches = make_patches(
            [photograph.pixels for photograph in photographs],
            method.patches,
            (spec.channels, spec.height, spec.width),
            seed,
            device,
        )
        self.epochs = Epochs(method.patches, method.batch_size, seed, "ood")

    def begin_round(self, index: int) -> None:
        """Stores the round, which decides the next patches."""
        self.index = index

    def sample(self, step: int) -> Tensor | None:
        """Returns the next batch in [0, 1], augmented.

        Each process makes the global batch and keeps its own rows, because CutMix pairs rows of different
        processes. 512 patches of 32x32 take 6 MB.
        """
        batch = self.index * self.method.student_steps + step
        places = self.epochs.batch(batch).to(self.patches.device)
        pixels = self.patches[places].float() / 255

        generator = seeding.generator(self.seed, "ood", "augment", batch)
        pixels = crop_and_flip(pixels, self.method.crop_padding, self.method.flip, generator)
        if self.method.cutmix:
            box = draw_box(pixels.shape[2], pixels.shape[3], self._share(batch), generator)
            pixels = cutmix(pixels, box)
        return distributed.own_rows(pixels)

    def facts(self) -> Mapping[str, Any]:
        """Returns the pictures with their hashes, and the number of patches."""
        return {"pictures": self.sources, "patches": self.method.patches}

    def state_dict(self) -> dict[str, Any]:
        """Returns the hash of the pictures; the patches follow from the pictures and the seed."""
        return {"pictures_sha256": self._sha256()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compares the hash of the pictures with the one in ``state``.

        Raises:
            InputError: the run began with other pictures.
        """
        if state["pictures_sha256"] != self._sha256():
            names = ", ".join(self.method.pictures)
            raise InputError(
                f"ood.pictures: the run began with pictures of another content than {names} have now; "
                "restore the files, or use a new --output_dir"
            )

    def _sha256(self) -> str:
        """Returns one hash of all pictures."""
        return hashlib.sha256("".join(source["sha256"] for source in self.sources).encode()).hexdigest()

    def _share(self, batch: int) -> float:
        """Draws the share of the box in the image's area from Beta(a, a)."""
        # torch's beta distribution draws from the global generator.
        with seeding.seeded(self.seed, "ood", "cutmix", batch):
            concentration = torch.tensor(self.method.cutmix, dtype=torch.float64)
            return float(torch.distributions.Beta(concentration, concentration).sample())
