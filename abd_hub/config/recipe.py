"""How a teacher is trained: the paper's schedule, and one of a tenth of its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from abd_hub.core.settings import Count, CountOrZero, NotNegative, Positive, Range, Settings, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(Settings, place="paper"):
    """SGD with cosine annealing; the defaults are the paper's."""

    epochs: Count = 200
    """Passes over the training set."""
    batch_size: Annotated[int, Range(least=2)] = 128
    """Images a step, over all processes together."""
    learning_rate: Positive = 0.1
    """Of SGD, at its highest; cosine to zero."""
    warmup: ShareBelowOne = 0.0
    """Share of the steps in which the learning rate first rises from zero, linearly."""
    momentum: ShareBelowOne = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NotNegative = 5e-4
    """Of SGD."""
    label_smoothing: ShareBelowOne = 0.0
    """Share of each label that is spread over all classes."""
    crop_padding: CountOrZero = 4
    """Random crops after padding by so many pixels; 0 for none."""
    flip: bool = True
    """Mirror half of the images; not for signs and letters that mirroring turns into others."""


@dataclass(frozen=True, kw_only=True)
class FastTeacherRecipe(TeacherRecipe, place="fast"):
    """A tenth of the epochs: one cycle of the learning rate (Smith & Topin, 2019) and Nesterov's momentum."""

    epochs: int = 20
    """Passes over the training set."""
    learning_rate: float = 0.2
    """Of SGD, at its highest; cosine to zero."""
    warmup: float = 0.2
    """Share of the steps in which the learning rate first rises from zero, linearly."""
    nesterov: bool = True
    """Nesterov's momentum."""


RECIPES: dict[str, type[TeacherRecipe]] = {"paper": TeacherRecipe, "fast": FastTeacherRecipe}
"""By the name that stands in YAML."""
