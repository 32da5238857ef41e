"""How a teacher is trained: the paper's schedule, and one of a tenth of its length."""

from __future__ import annotations

from dataclasses import dataclass

from abd_hub.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """SGD with cosine annealing; the defaults are the paper's."""

    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Images a step, over all processes together."""
    learning_rate: float = 0.1
    """Of SGD, at its highest; cosine to zero."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate first rises from zero, linearly."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 5e-4
    """Of SGD."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    crop_padding: int = 4
    """Random crops after padding by so many pixels; 0 for none."""
    flip: bool = True
    """Mirror half of the images; not for signs and letters that mirroring turns into others."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("crop_padding", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: must be at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: must be positive, got {self.learning_rate}")
        for name in ("warmup", "label_smoothing", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: must be in [0, 1), got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise InputError(f"weight_decay: must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class FastTeacherRecipe(TeacherRecipe):
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
