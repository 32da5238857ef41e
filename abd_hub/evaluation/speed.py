"""Measures how many images a classifier takes in a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from abd_hub.learning.modes import in_eval_mode
from abd_hub.models.classifier import Classifier

MOST = 32
"""Most images of a pass."""
SECONDS = 0.3
"""About the longest pass. Large networks on a processor then get fewer images, and five passes take 1.5 s."""
PASSES = 3


def speeds(**models: Classifier) -> dict[str, float]:
    """Returns ``images_per_second`` of each network, with three digits."""
    return {name: float(f"{images_per_second(model):.3g}") for name, model in models.items()}


def images_per_second(classifier: Classifier) -> float:
    """Returns the speed on the classifier's device, in float32, from the fastest of some passes."""
    spec, like = classifier.spec, classifier.mean
    pixels = torch.zeros(MOST, spec.channels, spec.height, spec.width, device=like.device, dtype=like.dtype)
    # The strides that a pass meets in use.
    pixels = pixels.to(memory_format=torch.channels_last)

    def passed(count: int) -> float:
        began = time.perf_counter()
        float(classifier(pixels[:count])[0, 0])  # waits for the device
        return time.perf_counter() - began

    with in_eval_mode(classifier), torch.inference_mode():
        return _rate(passed)


def _rate(passed: Callable[[int], float]) -> float:
    passed(1)  # the first pass also prepares the later ones
    count = max(1, min(MOST, int(SECONDS / passed(1))))
    passed(count)
    return count / min(passed(count) for _ in range(PASSES))
