"""Compares a run's student with its teacher: the patches that are held back, and the entry of the record."""

from __future__ import annotations

import torch
from torch import Tensor

from abd_hub.core import seeding
from abd_hub.core.records import Agreement, DataSpec
from abd_hub.evaluation.rates import wilson
from abd_hub.runs.inspect import default_images
from abd_hub.training.agreement import AgreementMeter

PATCHES, FEWEST = 1000, 100
"""Patches that are held back, and the fewest for large images."""
MOST_PIXELS = 1 << 22
"""Most pixels of all of them: 1,000 of 64x64, then fewer. 100 of 224x224 take four seconds of one core."""


def held_back_patches(spec: DataSpec, device: torch.device) -> Tensor:
    """Makes the patches of photographs that every run holds back.

    They are the same in every run, whatever its seed, so that students can be compared. The method ``ood``
    learns from other patches of the same photographs.

    Returns:
        (n, C, H, W) uint8 on ``device``; n is 0 where the teacher is for neither gray nor RGB images.
    """
    if spec.channels not in (1, 3):
        return torch.empty(0, spec.channels, spec.height, spec.width, dtype=torch.uint8, device=device)
    count = min(PATCHES, max(FEWEST, MOST_PIXELS // (spec.height * spec.width)))
    return default_images(spec, seeding.derive_seed(0, "agreement"), device, most=count)


def measured_agreement(meter: AgreementMeter) -> tuple[Agreement, ...] | None:
    """Returns the agreement of a finished run for its record; None where none was measured."""
    kinds = sorted(meter.latest.items())
    found = [Agreement(kind, wilson(counted.same, counted.n), counted.chance) for kind, counted in kinds]
    return tuple(found) or None
