"""Both sides, the published loops and abd-hub, run their rounds one at a time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from bank_sides import BankOurs, CmiTextbook, FastTextbook
from one_side import Side, drawn_crops, trainer
from round_sizes import Size, Spent, counted, timed
from textbook_bank import Crop
from textbook_dfq import TextbookDfq
from textbook_loops import TextbookZskt, shuffled_copies, textbook_generator
from textbook_ood import Box, TextbookOod
from torch import Tensor, nn

from abd_hub import Dfq, Ood, SelfRetrospection, ShufflingVaccine, Zskt


class ZsktTextbook(Side):
    """Runs the published ZSKT with the defenses in its name: sv, sr or both."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.index = int("+sr" in name)
        self.method = zskt(size)
        options: dict[str, Any] = {}
        if "+sv" in name:
            vaccine = vaccine_of(size)
            shuffled = vaccine.build(self.teacher).shuffled
            permutations = zip(shuffled.layers, shuffled.permutations(0, 0), strict=True)
            copies = shuffled_copies(self.teacher, {layer.name: drawn for layer, drawn in permutations})
            options |= {"vaccine": vaccine, "copies": copies}
        if "+sr" in name:
            options |= {"retrospection": retrospection(name), "start": self.start}
        generator = textbook_generator(self.method.z_dim, 128, size.image_size, nn.BatchNorm2d(3))
        self.loop = TextbookZskt(
            self.teacher, self.student, generator.to(self.device), self.method, self.noise, **options
        )

    def noise(self, index: int) -> Tensor:
        return torch.randn(self.size.batch_size, self.method.z_dim).to(self.device)

    def start(self, index: int) -> Tensor:
        return torch.randn(1, 3, self.size.image_size, self.size.image_size).to(self.device)

    def turn(self) -> Spent:
        generator_step = timed(self.generator_step)
        count = self.size.retrospective_steps if self.index else self.size.student_steps
        steps = timed(lambda: self.student_steps(count)).times(1 / count)
        return generator_step + steps.times(self.size.student_steps)

    def generator_step(self) -> None:
        self.z = self.noise(0)
        self.loop.generator_step(self.z)

    def student_steps(self, count: int) -> None:
        active = self.loop.begin(self.index)
        for _ in range(count):
            self.loop.student_step(self.z, active, 0)

    def operations(self) -> float:
        step = counted(self.generator_step), counted(lambda: self.student_steps(1))
        return step[0] + self.size.student_steps * step[1]


class DfqTextbook(Side):
    """Runs the published DFQ."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.method = dfq(size)
        generator = textbook_generator(self.method.z_dim, 128, size.image_size, nn.Sigmoid())
        self.loop = TextbookDfq(
            self.teacher, self.student, generator.to(self.device), self.method, self.noise
        )

    def noise(self, *_place: int) -> Tensor:
        return torch.randn(self.size.batch_size, self.method.z_dim).to(self.device)

    def turn(self) -> Spent:
        return timed(self.round)

    def round(self) -> None:
        self.loop.round(0)

    def operations(self) -> float:
        return counted(self.round)


class OodTextbook(Side):
    """Runs the published distillation on patches; one round opens the loader once."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.method = ood(size)
        self.folder = tempfile.TemporaryDirectory()
        shape = (self.method.patches, 3, size.image_size, size.image_size)
        patches = torch.randint(256, shape, dtype=torch.uint8)
        self.loop = TextbookOod(
            self.teacher,
            self.student,
            self.method,
            patches,
            self.crops,
            self.box,
            Path(self.folder.name),
            size.workers,
        )

    def crops(self, index: int) -> list[list[Crop]]:
        return list(drawn_crops(self.size.batch_size, self.method.student_steps, self.method.patches))

    def box(self, index: int, step: int) -> Box:
        half = self.size.image_size // 2
        return (half // 2, half // 2, half, half)

    def turn(self) -> Spent:
        # The published loop opens its loader once an epoch of 97 batches.
        self.batches = self.loop.batches(0)
        return timed(lambda: self.loop.distill(0, self.batches))

    def operations(self) -> float:
        images = torch.rand(self.size.batch_size, 3, self.size.image_size, self.size.image_size)
        return counted(lambda: self.loop.distill(0, [images] * self.method.student_steps))


class RoundOurs(Side):
    """Runs a method on ``Trainer``, round by round, with the defenses in its name."""

    def __init__(self, name: str, size: Size, precision: str) -> None:
        super().__init__(name, size)
        defenses: list[Any] = []
        if "+sv" in name:
            defenses.append(vaccine_of(size).build(self.teacher))
        if "+sr" in name:
            defenses.append(retrospection(name).build(self.teacher))
        method = ROUNDS.get(name, zskt)(size)
        self.trainer = trainer(self.teacher, self.student, method, defenses, precision, size)
        self.index = int("+sr" in name)

    def turn(self) -> Spent:
        return timed(self.round)

    def round(self) -> None:
        self.trainer._round(self.index)  # ``fit`` runs all rounds and cannot run one alone

    def operations(self) -> float:
        return counted(self.round)


def dfq(size: Size) -> Dfq:
    return Dfq(rounds=2, batch_size=size.batch_size, student_steps=size.student_steps)


def ood(size: Size) -> Ood:
    return Ood(rounds=2, batch_size=size.batch_size, student_steps=size.student_steps, patches=2_048)


ROUNDS: dict[str, Any] = {"dfq": dfq, "ood": ood}
"""Builds the methods whose rounds are short enough to be timed whole."""


def zskt(size: Size) -> Zskt:
    return Zskt(rounds=2, batch_size=size.batch_size, student_steps=size.student_steps)


def vaccine_of(size: Size) -> ShufflingVaccine:
    return ShufflingVaccine(check=False, copies=size.copies)


def retrospection(name: str) -> SelfRetrospection:
    return SelfRetrospection(last_rounds=1, source="student" if name.endswith("-student") else "teacher")


BANKS: dict[str, type[Side]] = {"cmi": CmiTextbook, "fast": FastTextbook}
"""Names the methods with a bank; their long rounds are scaled up from a few steps."""
TEXTBOOKS: dict[str, type[Side]] = {**BANKS, "dfq": DfqTextbook, "ood": OodTextbook}


def side(name: str, size: Size, precision: str | None) -> Side:
    """Returns our side in a precision, or for None the published one."""
    if precision is None:
        return TEXTBOOKS.get(name, ZsktTextbook)(name, size)
    return BankOurs(name, size, precision) if name in BANKS else RoundOurs(name, size, precision)
