"""Takes a student that diverges back to its last good state, and goes on at half the learning rate.

One rate suits most teachers but not all. With a MobileNetV3 as teacher, the loss of ``ood`` rose from 0.63 to
8.4 within twenty rounds at the rate 0.1, and from then on the student gave the same logits to every image.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from abd_hub.learning.checkpoint import to_device
from abd_hub.training.student_optimizer import StudentOptimizer

logger = logging.getLogger(__name__)
RISE = 3.0
"""A mean loss of so many times the best one has diverged. Between two lines of the log, the losses of healthy
runs of ``ood`` differed by less than a fifth."""
NEAR = 1.25
"""Up to so many times the best mean loss, the student's state is good."""
LEAST = 5
"""Counts the lines of the log before the first judgment."""
MOST = 5
"""Limits how often a run goes back; the learning rate is then a 32nd."""
_CPU = torch.device("cpu")


class Recovery:
    """Keeps the last good state of a student.

    It suits methods whose images do not depend on the student. Elsewhere a loss may rise because the images
    become harder.

    Args:
        student: model that learns.
        optimizer: of the student; its ``scale`` is halved.
        hints: learn with the student; None where there are none.
    """

    def __init__(self, student: nn.Module, optimizer: StudentOptimizer, hints: nn.Module | None) -> None:
        self.networks = {"student": student} | ({} if hints is None else {"hints": hints})
        self.optimizer = optimizer
        self.best = math.inf
        self.judged, self.times = 0, 0
        self.good: dict[str, Any] = {}

    def goes_back(self, done: int, figures: Mapping[str, float]) -> bool:
        """Judges the mean loss since the last line of the log; returns whether the student went back.

        Args:
            done: number of finished rounds.
            figures: the means of these rounds, equal on all processes.
        """
        loss = figures.get("student_loss")
        # After a fresh start of the optimizer, a defense works against what the student has learned.
        if loss is None or self.optimizer.constant_rate is not None:
            return False
        self.judged += 1
        if loss <= NEAR * self.best:
            self.best = min(self.best, loss)
            self.good = self._state(done)
        diverged = not loss <= RISE * self.best and self.judged > LEAST
        if not diverged or not self.good or self.times >= MOST:
            return False
        self._go_back(loss)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed run needs to judge alike."""
        numbers = {"best": self.best, "judged": self.judged, "times": self.times}
        return {**numbers, "scale": self.optimizer.scale, "good": self.good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state from ``state_dict``; an older checkpoint has none."""
        if state:
            self.best, self.judged, self.times = state["best"], state["judged"], state["times"]
            self.optimizer.scale, self.good = state["scale"], dict(state["good"])

    def _state(self, done: int) -> dict[str, Any]:
        states = {name: network.state_dict() for name, network in self.networks.items()}
        whole = {**states, "optimizer": self.optimizer.state_dict()}
        return {**copy.deepcopy(to_device(whole, _CPU)), "round": done}

    def _go_back(self, loss: float) -> None:
        for name, network in self.networks.items():
            network.load_state_dict(self.good[name])
        state = copy.deepcopy(self.good["optimizer"])
        for group in state["param_groups"]:
            group["lr"] = self.optimizer.rate  # that of the round, not of the state
        self.optimizer.load_state_dict(state, None)
        self.optimizer.scale /= 2
        self.times += 1
        logger.warning(
            "The student's loss rose from %.3g to %.3g: it goes back to its state after round %d, and its "
            "learning rate is halved.",
            self.best,
            loss,
            self.good["round"],
        )
