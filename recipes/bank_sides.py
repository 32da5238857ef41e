"""Both sides of the methods with a bank; their long rounds are scaled up from a few steps."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from one_side import Side, drawn_crops, trainer
from round_sizes import Size, Spent, counted, timed
from textbook_bank import Crop, TextbookBank
from textbook_cmi import TextbookCmi
from textbook_fast import TextbookFast
from textbook_loops import textbook_generator
from torch import Tensor, nn

from abd_hub import Cmi, Fast


def cmi(size: Size) -> Cmi:
    return Cmi(
        rounds=1,
        generator_steps=size.cmi_generator_steps,
        student_steps=size.bank_student_steps,
        batch_size=size.batch_size,
        synthesis_batch_size=size.synthesis_batch_size,
        negatives=size.negatives,
    )


def fast(size: Size) -> Fast:
    return Fast(
        rounds=1,
        warmup_rounds=0,
        generator_steps=size.fast_generator_steps,
        student_steps=size.bank_student_steps,
        batch_size=size.batch_size,
        synthesis_batch_size=size.synthesis_batch_size,
    )


def round_of_bank(synthesis: Spent, once: Spent, distillation: Spent, method: Cmi | Fast) -> Spent:
    """Returns the time of as many steps as the paper's round has, from those that were timed."""
    a_step = synthesis.times(1 / method.generator_steps), distillation.times(1 / method.student_steps)
    parts = {"synthesis_step": a_step[0].seconds, "student_step": a_step[1].seconds, "once": once.seconds}
    paper = type(method)
    whole = a_step[0].times(paper.generator_steps) + once + a_step[1].times(paper.student_steps)
    return dataclasses.replace(whole, parts=parts)


class BankTextbook(Side):
    """Runs a published loop with a bank, and draws what the student's half of it needs."""

    method: Cmi | Fast
    loop: TextbookBank

    def classes(self, index: int) -> Tensor:
        return torch.randint(self.size.classes, (self.size.synthesis_batch_size,)).to(self.device)

    def crops(self, index: int, count: int) -> Iterator[list[Crop]]:
        # As many draws as the paper's full folder gives: its 51,200 images are the 400 batches of a round.
        yield from drawn_crops(self.method.batch_size, self.method.student_steps, count)

    def turn(self) -> Spent:
        synthesis = timed(lambda: self.loop.synthesize(0))
        opening = timed(self.open)
        distillation = timed(lambda: self.loop.distill(0, self.batches))
        return round_of_bank(synthesis, opening, distillation, self.method)

    def open(self) -> None:
        self.batches = self.loop.batches(0)

    def operations(self) -> float:
        loop, method = self.loop, self.method
        synthesis = counted(lambda: loop.synthesize(0)) / method.generator_steps
        images = torch.rand(self.size.batch_size, 3, self.size.image_size, self.size.image_size)
        distillation = counted(lambda: loop.distill(0, [images]))
        return synthesis * type(method).generator_steps + distillation * type(method).student_steps


class CmiTextbook(BankTextbook):
    """Runs the published CMI, and draws all that the loop needs."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.method = cmi(size)
        layers = [layer for layer in self.teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        width = sum(layer.num_features for layer in layers)
        head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.method.embedding_dim)
        ).to(self.device)
        self.folder = tempfile.TemporaryDirectory()
        self.loop = TextbookCmi(
            self.teacher,
            self.student,
            head,
            self.method,
            self,
            Path(self.folder.name),
            size.workers,
            tuple(torch.rand(2, size.negatives, width)),
        )

    def generator(self, index: int) -> tuple[nn.Module, Tensor]:
        method = self.method
        generator = textbook_generator(method.z_dim, 128, self.size.image_size, nn.Sigmoid())
        for layer in generator.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)
        noise = torch.randn(method.synthesis_batch_size, method.z_dim).to(self.device)
        return generator.to(self.device), noise.requires_grad_()

    def views(self, index: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a padded crop, and a resized box of a quarter of the area or more."""
        n = len(pixels)
        whole = box(pixels, torch.ones(n, 2), torch.randint(-4, 5, (n, 2)) / 16, "zeros")
        side = (0.25 + 0.75 * torch.rand(n, 1)).sqrt().expand(n, 2)
        local = box(pixels, side, (2 * torch.rand(n, 2) - 1) * (1 - side), "border")
        return whole, local

    def negatives(self, index: int, step: int, count: int) -> Tensor:
        return torch.randperm(count)[: self.method.negatives]


class FastTextbook(BankTextbook):
    """Runs the published Fast, and draws all that the loop needs."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.method = fast(size)
        self.folder = tempfile.TemporaryDirectory()
        generator = textbook_generator(self.method.z_dim, 128, size.image_size, nn.Sigmoid())
        self.loop = TextbookFast(
            self.teacher,
            self.student,
            generator.to(self.device),
            self.method,
            self,
            Path(self.folder.name),
            size.workers,
        )

    def noise(self, index: int) -> Tensor:
        return torch.randn(self.method.synthesis_batch_size, self.method.z_dim).to(self.device)

    def view(self, index: int, step: int, pixels: Tensor) -> Tensor:
        """Returns a padded crop of each image, mirrored or not."""
        n = len(pixels)
        return box(pixels, torch.ones(n, 2), torch.randint(-4, 5, (n, 2)) / 16, "zeros")


def box(pixels: Tensor, size: Tensor, center: Tensor, outside: str) -> Tensor:
    """Enlarges a box of each image to a whole image and mirrors half of them; size and center are (N, 2)."""
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = size[:, 0] * (torch.randint(2, (len(pixels),)) * 2 - 1)
    theta[:, 1, 1] = size[:, 1]
    theta[:, :, 2] = center
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)


class BankOurs(Side):
    """Runs a method with a bank on ``Trainer``."""

    def __init__(self, name: str, size: Size, precision: str) -> None:
        super().__init__(name, size)
        self.method: Cmi | Fast = cmi(size) if name == "cmi" else fast(size)
        self.trainer = trainer(self.teacher, self.student, self.method, [], precision, size)
        synthesizer = self.trainer.synthesizer
        if name == "cmi":
            earlier = torch.rand(2, size.negatives, synthesizer.statistics.width, device=self.device)
            synthesizer.features.add(*earlier)
        self.update, synthesizer.update = synthesizer.update, self.timed_update

    def timed_update(self, *arguments: Any) -> dict[str, Tensor]:
        figures: dict[str, Tensor] = {}
        self.synthesis = timed(lambda: figures.update(self.update(*arguments)))
        return figures

    def turn(self) -> Spent:
        whole = timed(lambda: self.trainer._round(0))
        distillation = whole + self.synthesis.times(-1)
        return round_of_bank(self.synthesis, Spent(0.0, 0.0), distillation, self.method)

    def operations(self) -> float:
        method = self.method
        whole = counted(lambda: self.trainer._round(0))
        student = counted(lambda: self.trainer._student_step(self.trainer._batch(self.images())))
        synthesis = (whole - method.student_steps * student) / method.generator_steps
        return synthesis * type(method).generator_steps + student * type(method).student_steps

    def images(self) -> Tensor:
        return self.trainer.synthesizer.sample(0)
