"""The published DFQ; ``textbook_loops.py`` lists the work that makes it slow."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from textbook_bank import LayerStatistics
from textbook_loops import kl
from torch import Tensor, nn

from abd_hub import Classifier, Dfq


class TextbookDfq:
    """Runs DFQ.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: pixels to logits; it learns in place.
        generator: (N, z_dim) to pixels; it learns in place.
        method: sizes, rates and schedule.
        noise: returns the noise (N, z_dim) of a round's generator step by the round's index, and of a
            student step by the index and the step.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        generator: nn.Module,
        method: Dfq,
        noise: Callable[..., Tensor],
    ) -> None:
        self.teacher = teacher.requires_grad_(True).eval()
        self.student, self.generator, self.method, self.noise = student.train(), generator, method, noise
        layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.seen = [LayerStatistics(layer, 0.0) for layer in layers]
        rate = method.generator_learning_rate
        self.adam = torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.5, 0.999))
        self.sgd = torch.optim.SGD(
            student.parameters(),
            lr=method.learning_rate,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )

    def round(self, index: int) -> None:
        annealed = 0.5 * (1 + math.cos(math.pi * index / self.method.rounds))
        self.sgd.param_groups[0]["lr"] = self.method.learning_rate * annealed
        self.generator_step(index)
        for step in range(self.method.student_steps):
            self.student_step(index, step)

    def generator_step(self, index: int) -> None:
        method = self.method
        x = self.generator(self.noise(index))
        t, s = self.teacher(x), self.student(x)
        mean = t.softmax(1).mean(0)
        loss = method.batch_norm_weight * sum(layer.distance for layer in self.seen)
        loss = loss + method.one_hot_weight * F.cross_entropy(t, t.argmax(1))
        loss = loss + method.entropy_weight * (mean * mean.log()).sum()
        loss = loss - method.adversarial_weight * kl(t, s)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def student_step(self, index: int, step: int) -> None:
        temperature = self.method.temperature
        with torch.no_grad():
            x = self.generator(self.noise(index, step))
            t = self.teacher(x)
        loss = kl(t / temperature, self.student(x) / temperature) * temperature**2
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
