"""The published CMI; ``textbook_loops.py`` lists the work that makes it slow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from textbook_bank import BankDraws, TextbookBank
from torch import Tensor, nn

from abd_hub import Classifier, Cmi


class CmiDraws(BankDraws, Protocol):
    """Makes every random draw of a round of CMI."""

    def generator(self, index: int) -> tuple[nn.Module, Tensor]:
        """Returns the round's fresh generator, from (N, z_dim) to pixels, and its noise."""

    def classes(self, index: int) -> Tensor:
        """Returns the classes of the images, (N,) int64."""

    def views(self, index: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the global and the local view of the images."""

    def negatives(self, index: int, step: int, count: int) -> Tensor:
        """Returns places in a memory of ``count`` embeddings."""


class TextbookCmi(TextbookBank):
    """Runs CMI.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: pixels to logits; it learns in place.
        head: maps embeddings of both views to the vectors that the contrast compares.
        method: sizes, rates and schedule.
        draws: makes the random draws of all rounds.
        folder: takes the PNG files.
        workers: number of processes of the DataLoader.
        memory: embeddings of earlier local and global views, (M, width) each, on the host.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        head: nn.Module,
        method: Cmi,
        draws: CmiDraws,
        folder: Path,
        workers: int,
        memory: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__(teacher, student, method, draws, folder, workers)
        self.head, self.draws, self.memory = head, draws, memory
        self.head_adam = torch.optim.Adam(head.parameters(), lr=method.generator_learning_rate)

    def synthesize(self, index: int) -> None:
        """Makes one batch of images and saves the best."""
        method = self.method
        generator, noise = self.draws.generator(index)
        targets = self.draws.classes(index)
        adam = torch.optim.Adam(
            [*generator.parameters(), noise], lr=method.generator_learning_rate, betas=(0.5, 0.999)
        )
        lowest, best = math.inf, None
        self.student.eval()
        for step in range(method.generator_steps):
            pixels = generator(noise)
            loss, local, whole = self.loss(index, step, pixels, targets)
            if loss.item() < lowest or best is None:
                lowest, best = loss.item(), (pixels.detach(), local.detach().cpu(), whole.detach().cpu())
            adam.zero_grad()
            self.head_adam.zero_grad()
            loss.backward()
            adam.step()
            self.head_adam.step()
        self.student.train()
        self.memory = tuple(
            torch.cat([old, new])[-method.feature_bank_size :]
            for old, new in zip(self.memory, best[1:], strict=True)
        )
        self.save(best[0])

    def loss(self, index: int, step: int, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss and the embeddings of the local and the global view."""
        method = self.method
        whole_view, local_view = self.draws.views(index, step, pixels)
        t, s = self.teacher(whole_view), self.student(whole_view)
        distance = sum(layer.distance for layer in self.seen)
        whole = torch.cat([layer.image_means for layer in self.seen], dim=1)
        self.teacher(local_view)
        local = torch.cat([layer.image_means for layer in self.seen], dim=1)
        agree = (s.argmax(1) == t.argmax(1)).to(s.dtype)
        apart = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
        loss = (
            method.one_hot_weight * F.cross_entropy(t, targets)
            + method.batch_norm_weight * distance
            - method.adversarial_weight * (apart * agree).mean()
            + method.contrast_weight * self.contrast(index, step, local, whole)
        )
        return loss, local, whole

    def contrast(self, index: int, step: int, local: Tensor, whole: Tensor) -> Tensor:
        n, places = len(local), self.draws.negatives(index, step, len(self.memory[0]))
        earlier_local, earlier_whole = (rows[places].to(self.device) for rows in self.memory)
        projected = F.normalize(self.head(torch.cat([local, earlier_local, whole, earlier_whole])), dim=1)
        queries, keys = projected.chunk(2)
        similar = queries @ keys.detach().T / self.method.contrast_temperature
        losses = F.cross_entropy(similar, torch.arange(len(similar), device=self.device), reduction="none")
        return losses[:n].mean() + losses[n:].mean()
