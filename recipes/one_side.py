"""What all sides of the benchmark share: networks, a turn, and the trainer of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from round_sizes import PRECISIONS, Size, Spent
from textbook_bank import Crop

from abd_hub import Classifier, Trainer, TrainerOptions


class Side:
    """Runs one loop of one method on networks of its own."""

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.size = name, size
        self.device = PartialState().device
        self.teacher, self.student = size.networks()

    def turn(self) -> Spent:
        """Runs a round and returns the time that it took, or would take in full."""
        raise NotImplementedError

    def operations(self) -> float:
        """Returns the FLOPs of a round."""
        raise NotImplementedError


def trainer(
    teacher: Classifier, student: Classifier, method: Any, defenses: list[Any], precision: str, size: Size
) -> Trainer:
    AcceleratorState._reset_state()  # accelerate takes one precision a process
    options = TrainerOptions(
        mixed_precision=PRECISIONS[precision],
        dynamo_backend=size.dynamo_backend,
        progress=False,
        checkpoint_every=0,
    )
    made = Trainer(teacher, student, method, defenses, options)
    student.train()
    return made


def drawn_crops(n: int, steps: int, count: int) -> Iterator[list[Crop]]:
    """Draws for each step ``n`` of ``count`` images, with the places of their crops."""
    for _ in range(steps):
        drawn = torch.randint(count, (n,)), *torch.randint(9, (2, n)), torch.rand(n) < 0.5
        yield list(zip(*[row.tolist() for row in drawn], strict=True))
