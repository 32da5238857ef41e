"""A teacher is trained by the paper's schedule, or by one of a tenth of its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from abd_hub.core.settings import Count, CountOrZero, NotNegative, Positive, Range, Settings, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(Settings, place="paper"):
    """Trains by SGD with cosine annealing; the defaults are the paper's."""

    epochs: Count = 200
    """Sets the number of passes over the training set."""
    batch_size: Annotated[int, Range(least=2)] = 128
    """Sets the number of images in a step, over all processes together."""
    learning_rate: Positive = 0.1
    """Sets the highest learning rate of SGD; a cosine leads from it to zero."""
    warmup: ShareBelowOne = 0.0
    """Sets the share of the steps in which the learning rate first rises from zero, linearly."""
    momentum: ShareBelowOne = 0.9
    """Sets the momentum of SGD."""
    nesterov: bool = False
    """Uses Nesterov's momentum."""
    weight_decay: NotNegative = 5e-4
    """Sets the weight decay of SGD."""
    label_smoothing: ShareBelowOne = 0.0
    """Spreads this share of each label over all classes."""
    crop_padding: CountOrZero = 4
    """Pads images by so many pixels (0 for none) and crops them at random."""
    flip: bool = True
    """Mirrors half of the images; set it to false for signs and letters that mirroring turns into others."""


@dataclass(frozen=True, kw_only=True)
class FastTeacherRecipe(TeacherRecipe, place="fast"):
    """Trains a tenth as long, by one cycle of the rate (Smith & Topin, 2019) and Nesterov's momentum."""

    epochs: int = 20
    """Sets the number of passes over the training set."""
    learning_rate: float = 0.2
    """Sets the highest learning rate of SGD; a cosine leads from it to zero."""
    warmup: float = 0.2
    """Sets the share of the steps in which the learning rate first rises from zero, linearly."""
    nesterov: bool = True
    """Uses Nesterov's momentum."""


RECIPES: dict[str, type[TeacherRecipe]] = {"paper": TeacherRecipe, "fast": FastTeacherRecipe}
"""Each recipe by its name in YAML."""
