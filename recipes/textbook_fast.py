"""The published Fast; ``textbook_loops.py`` lists the work that makes it slow."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from textbook_bank import BankDraws, TextbookBank
from torch import Tensor, nn

from abd_hub import Classifier, Fast


class FastDraws(BankDraws, Protocol):
    """Makes every random draw of a round of Fast."""

    def noise(self, index: int) -> Tensor:
        """Returns the round's noise, (N, z_dim)."""

    def classes(self, index: int) -> Tensor:
        """Returns the classes of the images, (N,) int64."""

    def view(self, index: int, step: int, pixels: Tensor) -> Tensor:
        """Returns the images cropped after padding and mirrored, with their gradient."""


class TextbookFast(TextbookBank):
    """Runs Fast.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: pixels to logits; it learns in place.
        generator: the meta generator, from (N, z_dim) to pixels; it learns in place.
        method: sizes, rates and schedule; its round of the reset lies beyond the run.
        draws: makes the random draws of all rounds.
        folder: takes the PNG files.
        workers: number of processes of the DataLoader.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        generator: nn.Module,
        method: Fast,
        draws: FastDraws,
        folder: Path,
        workers: int,
    ) -> None:
        super().__init__(teacher, student, method, draws, folder, workers)
        self.generator, self.draws = generator, draws
        rate = method.generator_learning_rate * method.generator_steps
        self.meta_adam = torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.5, 0.999))

    def synthesize(self, index: int) -> None:
        """Makes one batch of images, saves the best, and takes one step of the meta generator."""
        method = self.method
        noise, targets = self.draws.noise(index).requires_grad_(), self.draws.classes(index)
        adapted = copy.deepcopy(self.generator)
        adam = torch.optim.Adam(
            [
                {"params": adapted.parameters()},
                {"params": [noise], "lr": method.noise_learning_rate},
            ],
            lr=method.generator_learning_rate,
            betas=(0.5, 0.999),
        )
        lowest, best = math.inf, None
        self.student.eval()
        self.meta_adam.zero_grad()
        for step in range(method.generator_steps):
            pixels = adapted(noise)
            loss = self.loss(index, step, pixels, targets)
            if loss.item() < lowest or best is None:
                lowest, best = loss.item(), pixels.detach()
            adam.zero_grad()
            loss.backward()
            self.add_gradients(adapted)
            adam.step()
        self.meta_adam.step()
        for layer in self.seen:
            layer.remember()
        self.student.train()
        self.save(best)

    def loss(self, index: int, step: int, pixels: Tensor, targets: Tensor) -> Tensor:
        method = self.method
        seen = self.draws.view(index, step, pixels)
        t = self.teacher(seen)
        loss = method.batch_norm_weight * sum(layer.distance for layer in self.seen)
        loss = loss + method.one_hot_weight * F.cross_entropy(t, targets)
        if index < self.idle:
            return loss
        s = self.student(seen)
        agree = (s.argmax(1) == t.argmax(1)).to(s.dtype)
        apart = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
        return loss - method.adversarial_weight * (apart * agree).mean()

    def add_gradients(self, adapted: nn.Module) -> None:
        """Adds the gradients of the adapted copy to those of the meta generator, as first-order MAML."""
        for shared, own in zip(self.generator.parameters(), adapted.parameters(), strict=True):
            if shared.grad is None:
                shared.grad = torch.zeros_like(shared)
            shared.grad += own.grad
