"""Holds the triggers of the suspects, and searches for them anew while the copy unlearns them.

A network that has only unlearned one trigger has others nearby. So one step of the inversion on the copy
comes before each step of the unlearning, for every suspect and in every family: a suspect of one family had
kept its backdoor where the trigger of this family alone was unlearned.

Two bounds keep the triggers from growing into images of their class, whose unlearning costs accuracy:

- An addition is scaled back to the size that an ordinary class needed in the inspection.
- A mask of more than 1.5 times this size is drawn back, by 0.05 for each pixel in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core.inspections import FoundTrigger
from abd_hub.inspection.families import FAMILIES, AdditiveFamily, Family, MaskFamily

SLACK = 1.5
"""A mask may be this much larger than an ordinary class's before it is drawn back."""
PULL = 0.05
"""Weight of a mask's size in the loss, beyond that."""


class MovingTriggers:
    """The triggers of k suspects in each of f families, and the optimizers that move them."""

    def __init__(self, found: Sequence[FoundTrigger], like: Tensor, chance: torch.Generator) -> None:
        """Starts from the triggers of an inspection; one without tensors starts where inspections start.

        Args:
            found: of one classifier, in any order; of each class one a family.
            like: (1, C, H, W) with the dtype, device and shape of the images.
            chance: CPU generator.
        """
        self.labels = tuple(dict.fromkeys(trigger.label for trigger in found))
        names = dict.fromkeys(trigger.family for trigger in found)
        groups = [[trigger for trigger in found if trigger.family == name] for name in names]
        self.families: list[Family] = [_family(group, self.labels, like, chance) for group in groups]
        self.limits = [_limits(group, self.labels).to(like) for group in groups]
        self.optimizers = [
            torch.optim.Adam(family.parameters, lr=family.rate, betas=(0.5, 0.9)) for family in self.families
        ]

    def step(self, copy: Any, pixels: Tensor) -> float:
        """Takes one step of the inversion on the copy.

        Args:
            copy: whose weights need no gradient meanwhile.
            pixels: (k, n, C, H, W) in [0, 1], of other classes than the suspects.

        Returns:
            The largest share of the images that any trigger turned into its class, before the step.
        """
        success = 0.0
        goals = torch.tensor(self.labels, device=pixels.device).repeat_interleave(pixels.shape[1])
        for family, limits, optimizer in zip(self.families, self.limits, self.optimizers, strict=True):
            logits = copy(family.put(pixels).flatten(0, 1))
            loss = F.cross_entropy(logits, goals, reduction="sum") / pixels.shape[1]
            loss = loss + _pull(family, limits)
            gradients = torch.autograd.grad(
                loss, family.parameters, allow_unused=True, materialize_grads=True
            )
            for parameter, gradient in zip(family.parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            _shorten(family, limits)
            hits = (logits.argmax(dim=1) == goals).float().view(pixels.shape[:2]).mean(dim=1)
            success = max(success, float(hits.max()))
        return success

    @torch.no_grad()
    def found(self) -> tuple[FoundTrigger, ...]:
        """Returns the triggers as they are now; their success is not measured."""
        now = []
        for family, limits in zip(self.families, self.limits, strict=True):
            for row, label in enumerate(self.labels):
                tensors = family.tensors(tuple(part[row] for part in family.parameters))
                size = float(family.sizes()[row])
                now.append(FoundTrigger(label, family.name, size, float(limits[row]), 0.0, **tensors))
        return tuple(now)

    @torch.no_grad()
    def put(self, pixels: Tensor) -> Tensor:
        """Puts the triggers on images in turns: image i gets trigger i modulo (k times f).

        Args:
            pixels: (n, C, H, W) in [0, 1].
        """
        count = len(self.labels) * len(self.families)
        changed = pixels.clone()
        for place in range(min(count, len(pixels))):
            family, row = self.families[place % len(self.families)], place // len(self.families)
            changed[place::count] = family.put(pixels[None, place::count], slice(row, row + 1))[0]
        return changed


def _family(
    group: Sequence[FoundTrigger], labels: Sequence[int], like: Tensor, chance: torch.Generator
) -> Family:
    family = FAMILIES[group[0].family](len(labels), like, chance)
    for trigger in group:
        family.restore(labels.index(trigger.label), trigger)
    return family


def _limits(group: Sequence[FoundTrigger], labels: Sequence[int]) -> Tensor:
    """Returns (k,) sizes of ordinary classes; infinite where no other class was reached."""
    sizes = {trigger.label: trigger.ordinary_size for trigger in group}
    return torch.tensor([sizes[label] for label in labels])


def _pull(family: Family, limits: Tensor) -> Tensor:
    sizes = family.sizes()
    if not isinstance(family, MaskFamily):
        return sizes.sum() * 0
    return (PULL * sizes * (sizes.detach() > SLACK * limits)).sum()


@torch.no_grad()
def _shorten(family: Family, limits: Tensor) -> None:
    if isinstance(family, AdditiveFamily):
        shares = (limits / family.sizes()).clamp(max=1)
        family.parameters[0].mul_(shares[:, None, None, None])
