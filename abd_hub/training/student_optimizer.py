"""The student's optimizer, its learning rate in every round, and its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from abd_hub.core.contracts import DefensePlugin, SynthesisMethod
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.schedules import cosine, stepped, warmup_cosine


class StudentOptimizer:
    """Runs the method's optimizer until a defense requests a fresh Adam with a constant rate.

    Args:
        method: names the optimizer and its schedule.
        student: model whose weights are optimized.
        defenses: each of them may request a fresh Adam.
        accelerator: prepares the optimizer for its precision.
        hints: learn with the student; None where there are none.
    """

    def __init__(
        self,
        method: SynthesisMethod,
        student: nn.Module,
        defenses: Sequence[DefensePlugin],
        accelerator: Accelerator,
        hints: nn.Module | None = None,
    ) -> None:
        self.method = method
        self.defenses = defenses
        self.accelerator = accelerator
        self.weights = [weight for weight in student.parameters() if weight.requires_grad]
        self.weights += [] if hints is None else list(hints.parameters())
        self.idle_rounds = next((i for i in range(method.rounds) if method.steps_in(i)), 0)
        """Counts the rounds before the student's first step."""
        self.constant_rate: float | None = None
        self.scale = 1.0
        """Multiplies every learning rate; see ``Recovery``."""
        self.optimizer = self._first()

    @property
    def rate(self) -> float:
        """Returns the present learning rate."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def begin_round(self, index: int) -> None:
        """Sets the learning rate, after a fresh start of the optimizer where a defense requests one."""
        for defense in self.defenses:
            fresh = defense.fresh_learning_rate(index, self.method.rounds)
            if fresh is not None:
                self._begin_anew(fresh)

        rate = self._scheduled_rate(index) if self.constant_rate is None else self.constant_rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.scale

    def unscale(self) -> None:
        """Divides the gradients by fp16's loss scale."""
        self.accelerator.unscale_gradients(self.optimizer)

    def step(self) -> None:
        """Averages the gradients over the processes, clips them, updates the weights and clears them."""
        distributed.average_gradients(self.weights)
        if self.method.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights, self.method.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments of the present optimizer; its kind follows from ``constant_rate``."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], constant_rate: float | None) -> None:
        """Restores the state from ``state_dict``, whose tensors must be on the CPU."""
        self.constant_rate = constant_rate
        if constant_rate is not None:  # a defense has requested a fresh optimizer
            self._begin_anew(constant_rate)
        checkpoint.restore_optimizer(self.optimizer, state)

    def _scheduled_rate(self, index: int) -> float:
        method = self.method
        # The schedule starts with the first round in which the student learns: a bank may be filled before.
        done, rounds = max(0, index - self.idle_rounds), method.rounds - self.idle_rounds
        rate, drops, warmup = method.learning_rate, method.learning_rate_drops, method.learning_rate_warmup
        middle = done + 0.5  # of the round, so that no round has the rate 0
        if warmup and (not drops or middle < warmup * rounds):
            return warmup_cosine(rate, middle, rounds, warmup)
        return stepped(rate, done, rounds, drops) if drops else cosine(rate, done, rounds)

    def _first(self) -> Any:
        method = self.method
        if method.optimizer == "adam":
            return self._adam(method.learning_rate, method.weight_decay)

        sgd = torch.optim.SGD(
            self.weights,
            lr=method.learning_rate,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )
        return self.accelerator.prepare(sgd)

    def _begin_anew(self, rate: float) -> None:
        self.constant_rate = rate
        self.optimizer = self._adam(rate)

    def _adam(self, rate: float, weight_decay: float = 0.0) -> Any:
        return self.accelerator.prepare(torch.optim.Adam(self.weights, lr=rate, weight_decay=weight_decay))
