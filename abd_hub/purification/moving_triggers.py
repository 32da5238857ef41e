"""Holds the triggers of the suspects, and searches for them anew while the copy unlearns them.

A network that has only unlearned one trigger has others nearby. So two steps of the inversion on the copy
come before each step of the unlearning, for every suspect and in every family: a suspect of one family had
kept its backdoor where the trigger of this family alone was unlearned.

The size that an ordinary class needs in the inspection bounds the triggers, because the unlearning of larger
ones costs accuracy and nothing else:

- An addition is scaled back to this size.
- A mask of more than three times this size is drawn back, by 0.05 for each pixel in the loss.
- A mask of more than six times this size is not unlearned, until it is smaller again.

The smallest mask of an inspection is a part of the trigger, so the bounds leave room for the rest. With one,
two, three and four times this size, badnets_8 kept an ASR of 0.86, 0.35, 0.02 and 0.003, and an accuracy of
0.775, 0.753, 0.739 and 0.736 (the first with seed 0, the others with seed 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core.inspections import FoundTrigger
from abd_hub.inspection.families import FAMILIES, AdditiveFamily, Family, MaskFamily

ROOM = {"mask": 3.0, "additive": 1.0}
"""Bound of a trigger's size, as a multiple of the ordinary size."""
MOST = 2.0
"""A trigger of more than this many times its bound is not unlearned."""
PULL = 0.05
"""Weight of each pixel of a mask in the loss, above the bound."""


class MovingTriggers:
    """The triggers of k suspects in each of f families, and the optimizers that move them."""

    def __init__(
        self, found: Sequence[FoundTrigger], like: Tensor, chance: torch.Generator, share: float = 1.0
    ) -> None:
        """Starts from the triggers of an inspection; one without tensors starts where inspections start.

        Args:
            found: of one classifier, in any order; of each class one a family.
            like: (1, C, H, W) with the dtype, device and shape of the images.
            chance: CPU generator.
            share: of the bounds of the triggers' sizes.
        """
        self.labels = tuple(dict.fromkeys(trigger.label for trigger in found))
        names = dict.fromkeys(trigger.family for trigger in found)
        groups = [[trigger for trigger in found if trigger.family == name] for name in names]
        self.families: list[Family] = [_family(group, self.labels, like, chance) for group in groups]
        self.limits = [share * _limits(group, self.labels).to(like) for group in groups]
        self.optimizers = [
            torch.optim.Adam(family.parameters, lr=family.rate, betas=(0.5, 0.9)) for family in self.families
        ]

    def step(self, copy: Any, pixels: Tensor) -> None:
        """Takes one step of the inversion on the copy.

        Args:
            copy: whose weights need no gradient meanwhile.
            pixels: (k, n, C, H, W) in [0, 1], of other classes than the suspects.
        """
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

    @torch.no_grad()
    def put(self, pixels: Tensor) -> Tensor:
        """Puts the triggers that are small enough on images in turns; where none is, changes nothing.

        Args:
            pixels: (n, C, H, W) in [0, 1].
        """
        usable = [
            (family, row)
            for row in range(len(self.labels))
            for family, limits in zip(self.families, self.limits, strict=True)
            if family.sizes()[row] <= MOST * limits[row]
        ]
        changed = pixels.clone()
        for place, (family, row) in enumerate(usable):
            some = slice(place, None, len(usable))
            changed[some] = family.put(pixels[None, some], slice(row, row + 1))[0]
        return changed


def _family(
    group: Sequence[FoundTrigger], labels: Sequence[int], like: Tensor, chance: torch.Generator
) -> Family:
    family = FAMILIES[group[0].family](len(labels), like, chance)
    for trigger in group:
        family.restore(labels.index(trigger.label), trigger)
    return family


def _limits(group: Sequence[FoundTrigger], labels: Sequence[int]) -> Tensor:
    """Returns (k,) bounds of the sizes; infinite where no other class was reached."""
    sizes = {trigger.label: ROOM[trigger.family] * trigger.ordinary_size for trigger in group}
    return torch.tensor([sizes[label] for label in labels])


def _pull(family: Family, limits: Tensor) -> Tensor:
    sizes = family.sizes()
    if not isinstance(family, MaskFamily):
        return sizes.sum() * 0
    return (PULL * sizes * (sizes.detach() > limits)).sum()


@torch.no_grad()
def _shorten(family: Family, limits: Tensor) -> None:
    if isinstance(family, AdditiveFamily):
        shares = (limits / family.sizes()).clamp(max=1)
        family.parameters[0].mul_(shares[:, None, None, None])
