"""A round has sizes and networks, and takes time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.flop_counter import FlopCounterMode

from abd_hub import Classifier, DataSpec, create_student

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NAMES = ("zskt", "zskt+sv", "zskt+sv+sr", "zskt+sv+sr-student", "cmi", "fast", "dfq", "ood")
PRECISIONS = {"float32": "no", "bf16": "bf16"}
EMULATED = "bf16 is left out: this processor emulates it, many times slower; --precisions bf16 measures it"


def at_full_speed() -> list[str]:
    """Returns the precisions for which the device has kernels of its own."""
    return [one for one in PRECISIONS if one != "bf16" or has_bf16(PartialState().device)]


def has_bf16(device: torch.device) -> bool:
    """Tells whether products in bf16 have kernels; oneDNN has some from AVX-512 on."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Holds the networks and the sizes of everything that the benchmark measures."""

    teacher: str = "wrn_16_2"
    """Names the teacher in timm; its weights are random."""
    student: str = "wrn_16_1"
    """Names the student in timm; its weights are random."""
    batch_size: int = 128
    """Sets the images of a student step."""
    synthesis_batch_size: int = 256
    """Sets the images of a step of the generators of CMI and Fast."""
    student_steps: int = 10
    """Sets the student steps of a round of ZSKT, DFQ and OOD."""
    classes: int = 10
    """Sets the number of logits."""
    image_size: int = 32
    """Sets height and width of the images in pixels."""
    copies: int = 3
    """Sets the number of shuffled teachers."""
    retrospective_steps: int = 1
    """Sets how many student steps of the textbook's round with retrospection are timed."""
    cmi_generator_steps: int = 3
    """Sets how many of the 200 steps of CMI's generator are timed."""
    fast_generator_steps: int = 10
    """Sets how many of the 10 steps of Fast's generator are timed."""
    bank_student_steps: int = 12
    """Sets how many of the 400 student steps of CMI and Fast are timed."""
    negatives: int = 4_096
    """Sets the embeddings in CMI's memory at the beginning of a round; all are negatives."""
    workers: int = 2
    """Sets the workers of the textbook's DataLoader."""
    dynamo_backend: str = "no"
    """Names the backend of torch.compile in our student steps."""

    @property
    def spec(self) -> DataSpec:
        labels = tuple(str(index) for index in range(self.classes))
        return DataSpec(3, self.image_size, self.image_size, labels)

    def networks(self) -> tuple[Classifier, Classifier]:
        """Returns a frozen teacher and a student, both on the device."""
        device = PartialState().device
        made = [
            create_student(name, self.spec, MEAN, STD, seed=seed).to(device)
            for seed, name in enumerate((self.teacher, self.student))
        ]
        return made[0].freeze(), made[1]


@dataclasses.dataclass
class Spent:
    """Holds the seconds of a whole round and of its parts."""

    seconds: float
    """Counts seconds of the clock."""
    processor_seconds: float
    """Counts seconds of all cores, child processes included."""
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    """Holds the seconds of one step, by its kind."""

    def __add__(self, other: Spent) -> Spent:
        total = Spent(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)
        return dataclasses.replace(total, parts=self.parts | other.parts)

    def times(self, factor: float) -> Spent:
        """Returns the time of ``factor`` such actions; the parts stay."""
        return Spent(self.seconds * factor, self.processor_seconds * factor, self.parts)


def timed(action: Callable[[], Any]) -> Spent:
    """Runs an action and returns the time that it took, on the device as well."""
    synchronize()
    began, processor_began = time.perf_counter(), sum(os.times()[:4])
    action()
    synchronize()
    return Spent(time.perf_counter() - began, sum(os.times()[:4]) - processor_began)


def synchronize() -> None:
    """Waits until an accelerator has done all its work."""
    if PartialState().device.type != "cpu":
        torch.accelerator.synchronize()


def counted(action: Callable[[], Any]) -> int:
    """Runs an action and returns its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()
