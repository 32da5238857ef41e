"""Which triggers the page offers, and their few options that a visitor can turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub import InputError, Trigger, build_trigger, catalog
from abd_hub_app.shelf import Shelf

KNOBS = {
    "size": ("size", "length"),
    "margin": ("margin",),
    "strength": ("alpha", "strength", "amplitude", "bits"),
}
"""What the page calls an option, and the names that it goes by; a trigger has the first of them at most."""

_IN_ALL_CORNERS = "cl"
_LARGEST = 1000
"""Some triggers draw as many numbers as the square of an option."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """An option that a visitor can turn."""

    field: str
    """The trigger's own name of it."""
    value: float
    """What it stands at first."""
    whole: bool
    """Whether it takes whole numbers only."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A trigger to choose."""

    name: str
    summary: str
    options: Mapping[str, Any]
    """Those of the run, or none: the trigger's defaults."""
    measured: bool
    """Whether a record of these models has measured it."""

    @property
    def has_place(self) -> bool:
        """Whether it lies in one corner."""
        return "margin" in self.knobs() and self.name != _IN_ALL_CORNERS

    def knobs(self) -> dict[str, Knob]:
        """By the page's name of it; options that the trigger does not have are left out."""
        trigger = build_trigger(self.name, self.options)
        known = {field.name for field in dataclasses.fields(trigger)}  # type: ignore[arg-type]
        found = {}
        for name, aliases in KNOBS.items():
            for field in [alias for alias in aliases if alias in known][:1]:
                value = getattr(trigger, field)
                found[name] = Knob(field=field, value=value, whole=isinstance(value, int))
        return found

    def build(self, turned: Mapping[str, float | None]) -> tuple[Trigger, dict[str, Any]]:
        """The trigger with these options turned, and all the options that it was given.

        Args:
            turned: by the page's name; None stands for the value it has at first, what the trigger does not
                have is ignored.

        Raises:
            InputError: a value is not one that the trigger takes.
        """
        options = dict(self.options)
        for name, knob in self.knobs().items():
            value = turned.get(name)
            if value is not None:
                options[knob.field] = as_number(name, value, knob.whole)
        return build_trigger(self.name, options), options


CORNERS = ("bottom right", "bottom left", "top right", "top left")
"""Where a trigger with a margin can be put; the first is where it was measured."""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """A trigger in another corner, mirrored into it."""

    trigger: Trigger
    corner: str

    def __call__(self, pixels: Tensor) -> Tensor:
        """As the trigger does."""
        axes = [axis for axis, side in ((2, "top"), (3, "left")) if side in self.corner.split()]
        return self.trigger(pixels.flip(axes)).flip(axes)


def in_corner(
    offer: Offer, trigger: Trigger, options: dict[str, Any], corner: object
) -> tuple[Trigger, dict[str, Any]]:
    """The trigger in a corner and its options with it; None, or a trigger without a place, changes nothing.

    Raises:
        InputError: there is no such corner.
    """
    if corner is None or not offer.has_place:
        return trigger, options
    if not isinstance(corner, str) or corner not in CORNERS:
        raise InputError(f"corner: {str(corner)[:40]!r} is none; use {', '.join(CORNERS)}")
    if corner == CORNERS[0]:
        return trigger, options
    return Mirrored(trigger=trigger, corner=corner), options | {"corner": corner}


def offers(shelf: Shelf) -> dict[str, Offer]:
    """What can be chosen, by name: the measured triggers first, then all that fit images of this size."""
    found = {}
    summaries = {entry.name: entry.summary for entry in catalog("triggers")}
    for attack in shelf.attacks:
        if attack.trigger in summaries and attack.trigger not in found and _is_plain(attack.options):
            found[attack.trigger] = Offer(
                name=attack.trigger,
                summary=summaries[attack.trigger],
                options=attack.options,
                measured=True,
            )
    for name, summary in summaries.items():
        found.setdefault(name, Offer(name=name, summary=summary, options={}, measured=False))
    return {name: offer for name, offer in found.items() if _fits(offer, shelf)}


def as_number(name: str, value: Any, whole: bool) -> int | float:
    """What a visitor turned an option to; whether it suits the trigger, the trigger says.

    Raises:
        InputError: it is no number, or absurdly large.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise InputError(f"{name}: {str(value)[:20]!r} is no number from 0 to {_LARGEST}")
    return int(value) if whole and value == int(value) else value


def _is_plain(options: Mapping[str, Any]) -> bool:
    # A record is a stranger's file, and an option of text can name a file of this machine or of the Hub.
    return all(isinstance(value, int | float) for value in options.values())


def _fits(offer: Offer, shelf: Shelf) -> bool:
    height, width = shelf.size
    try:
        trigger = build_trigger(offer.name, offer.options)
        trigger(torch.zeros(1, shelf.models[0].classifier.spec.channels, height, width))
    except InputError:
        return False
    return True
