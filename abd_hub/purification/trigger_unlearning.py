"""Trigger unlearning: a copy of the teacher learns to answer images with a trigger as the teacher answers
the same images without it.

Neural Cleanse (Wang et al., S&P 2019) patches a network by unlearning: it trains on images with the inverted
trigger and their true labels. Here are no labels, so the goals are the teacher's own answers to the clean
image. With T the teacher, S the copy and z the triggers, each step lowers

    c KL(T(x) || S(x)) + w KL(T(x) || S(z(x)))

over the weights of the copy, with BatchNorm in eval mode. x are images of the inspection and those that the
teacher is most confident about, in turns. Before each step, the triggers take two of the inversion on the
copy, so that they stay those that work. The learning rate falls as a cosine. The weight w does so in the
second half of the steps, in which the copy gets back the accuracy that the first half has cost.
"""

from __future__ import annotations

import copy as copies
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.inspections import FoundTrigger, InspectionReport
from abd_hub.core.purifications import Purification, PurificationReport
from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import Count, Positive
from abd_hub.inspection.confident import ConfidentImages, answers, as_pixels, choose_confident
from abd_hub.inspection.families import FAMILIES
from abd_hub.inspection.trigger_inversion import TriggerInversion
from abd_hub.learning.losses import kl
from abd_hub.learning.modes import in_eval_mode
from abd_hub.learning.precision import Precision, in_precision
from abd_hub.learning.progress import over
from abd_hub.purification.moving_triggers import MovingTriggers

HELD_BACK = 10
"""Every tenth image is held back from the unlearning, and measures the agreement."""
MOST_HELD_BACK = 1000
SEARCH_STEPS = 2
"""Steps of the inversion for each step of the copy. With one, badnets_8 kept an ASR of 0.78 after 40 steps,
with two 0.01."""
UNFLAGGED = 0.25
"""Triggers of a class that is not flagged have this share of the bounds. Only so small a trigger would
be suspicious, and the unlearning of larger ones cost clean teachers accuracy."""
CAPTURED, KEPT = 0.5, 0.25
"""Where more than half of the images get a suspect's class, these are drawn as a quarter only. A backdoor
that takes photographs for its trigger gave class 0 to 94 % of them and more, in six teachers of digits. As
goals, these answers kept it alive: the ASR was 0.10 to 0.60, and is 0.00 to 0.014. The quarter was chosen on
three of them. Published teachers give their suspects 31 % at most."""
_MEASURED = 50
"""Images of each other class on which the triggers are measured."""


@register("purifications", "trigger_unlearning")
@dataclass(frozen=True, kw_only=True)
class TriggerUnlearning(Purification, place="trigger_unlearning"):
    """Unlearns the triggers of the suspects, with the classifier's own answers as goals."""

    citation = TriggerInversion.citation

    steps: Count = 120
    """Sets the number of steps of Adam on the copy's weights."""
    learning_rate: Positive = 2e-4
    """Sets the learning rate of Adam."""
    clean_weight: Positive = 4.0
    """Sets the weight c of the answers to images without a trigger."""
    batch_size: Count = 64
    """Sets the number of images in a step, each seen without and with a trigger."""
    images_per_trigger: Count = 16
    """Sets the number of images on which each trigger takes a step of the inversion."""
    candidates: Count = 300
    """Draws confident images from so many of each class, the most confident ones."""
    mixed_precision: Precision = "no"
    """Runs the passes in float32 (no) or in bfloat16 (bf16)."""

    def purify(
        self, teacher: Any, images: Tensor, report: InspectionReport | None, seed: int = 0
    ) -> tuple[Any, PurificationReport]:
        """Unlearns the triggers of the report's suspects, or of its leading classes where it has none.

        Raises:
            InputError: there is no report or it has no triggers. Or the images do not allow a choice, as in
                ``choose_confident``.
        """
        began = time.perf_counter()
        found = _triggers(report)
        assert report is not None, "it has triggers"
        held_back, rest = _split(images)
        with in_eval_mode(teacher):
            chosen = choose_confident(teacher, rest, self.candidates)
            start = generator(seed, "purification", "start")
            room = 1.0 if report.flagged else UNFLAGGED
            moving = MovingTriggers(found, as_pixels(rest[:1]), start, room)
            share, rows = _trusted(teacher, rest, moving.labels if report.flagged else ())
            copy = self._unlearned(teacher, moving, _Draws(chosen, rest[rows], moving.labels, seed))
            done = PurificationReport(
                name="trigger_unlearning",
                changed=True,
                detail="",
                agreement=_agreement(teacher, copy, held_back),
                suspects=moving.labels,
                success_before=_success(teacher, found, chosen),
                success_after=_success(copy, found, chosen),
                facts={"steps": self.steps, "suspect_share": share},
            )
        seconds = time.perf_counter() - began
        detail = _detail(teacher.spec.labels, done)
        return copy.freeze(), dataclasses.replace(done, detail=detail, seconds=seconds)

    def _unlearned(self, teacher: Any, moving: MovingTriggers, draws: _Draws) -> Any:
        """Returns a copy of the teacher after all steps."""
        copy = copies.deepcopy(teacher).eval()
        weights = list(copy.parameters())
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        answer, goals = in_precision(copy, self.mixed_precision), in_precision(teacher, self.mixed_precision)

        for step in over(range(self.steps), self.steps, unit="step", name="purify"):
            _require_gradients(weights, False)
            for _ in range(SEARCH_STEPS):
                moving.step(answer, draws.of_other_classes(self.images_per_trigger))

            _require_gradients(weights, True)
            pixels = draws.images(self.batch_size, confident=step % 2 == 1)
            late = max(0, 2 * step - self.steps)
            loss = self._loss(goals, answer, moving, pixels, cosine(late, self.steps))
            if not loss.isfinite():
                raise InputError("teacher: gives logits that are not finite; check its weights")
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.param_groups[0]["lr"] = self.learning_rate * cosine(step, self.steps)
            optimizer.step()
        return copy

    def _loss(self, teacher: Any, copy: Any, moving: MovingTriggers, pixels: Tensor, weight: float) -> Tensor:
        """c KL(T(x) || S(x)) + w KL(T(x) || S(z(x)))."""
        with torch.no_grad():
            goals = teacher(pixels)
        clean, triggered = copy(torch.cat([pixels, moving.put(pixels)])).chunk(2)
        return self.clean_weight * kl(goals, clean) + weight * kl(goals, triggered)


def cosine(step: int, steps: int) -> float:
    """Returns the share of a rate or a weight that is left at a step, from 1 to 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


class _Draws:
    """Draws images for both kinds of step."""

    def __init__(self, chosen: ConfidentImages, images: Tensor, labels: Sequence[int], seed: int) -> None:
        self.chosen = chosen
        self.every = images
        self.suspects = torch.tensor(labels)
        self.chance = generator(seed, "purification", "images")

    def of_other_classes(self, count: int) -> Tensor:
        """Returns (k, count, C, H, W) confident images for the inversion of each suspect's triggers."""
        return self.chosen.draw(self.suspects, count, self.chance)

    def images(self, count: int, *, confident: bool) -> Tensor:
        """Returns (count, C, H, W): confident images, each class as often, or any images."""
        if confident:
            return self.chosen.draw(torch.tensor([-1]), count, self.chance)[0]
        rows = torch.randint(len(self.every), (count,), generator=self.chance)
        return as_pixels(self.every[rows.to(self.every.device)])


def _triggers(report: InspectionReport | None) -> tuple[FoundTrigger, ...]:
    """Returns every family's trigger of each suspect, or of the leading classes where there is no suspect."""
    if report is None:
        raise InputError("report: trigger_unlearning acts on an inspection; give its report")
    known = tuple(trigger for trigger in report.triggers if trigger.family in FAMILIES)
    if not known:
        raise InputError(f"report: {report.name} gives no trigger to unlearn; inspect with trigger_inversion")
    return known


def _split(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns every tenth image, at most 1,000, and the images between them."""
    held_back = torch.arange(len(images)) % HELD_BACK == 0
    return images[held_back.to(images.device)][:MOST_HELD_BACK], images[~held_back.to(images.device)]


def _trusted(teacher: Any, images: Tensor, suspects: Sequence[int]) -> tuple[float, Tensor]:
    """Returns the share of images that get a suspect's class, and the rows of those to draw from."""
    every = torch.arange(len(images), device=images.device)
    if not suspects:
        return 0.0, every
    found = answers(teacher, images).argmax(dim=1).to(images.device)
    captured = torch.isin(found, torch.tensor(suspects, device=images.device))
    share = float(captured.double().mean())
    if share <= CAPTURED:
        return share, every
    others, some = every[~captured], every[captured]
    count = max(1, int(len(others) * KEPT / (1 - KEPT)))
    spread = torch.arange(count, device=images.device) * len(some) // count
    return share, torch.cat([others, some[spread]])


def _require_gradients(weights: Sequence[Tensor], wanted: bool) -> None:
    for weight in weights:
        weight.requires_grad_(wanted)


def _success(classifier: Any, triggers: Sequence[FoundTrigger], chosen: ConfidentImages) -> float:
    """Returns the largest share of images of other classes that any trigger turns into its class."""
    rates = [0.0]
    for trigger in triggers:
        logits = answers(classifier, chosen.others(trigger.label, _MEASURED), trigger)
        rates.append(float((logits.argmax(dim=1) == trigger.label).double().mean()))
    return max(rates)


def _agreement(teacher: Any, copy: Any, images: Tensor) -> float:
    if not len(images):
        return 1.0
    same = answers(teacher, images).argmax(dim=1) == answers(copy, images).argmax(dim=1)
    return float(same.double().mean())


def _detail(labels: Sequence[str], report: PurificationReport) -> str:
    names = ", ".join(f"{label} ({labels[label]})" for label in report.suspects)
    return (
        f"triggers of class {names} were unlearned: the best turned {report.success_before:.0%} of the "
        f"images into its class, and turns {report.success_after:.0%} now"
    )
