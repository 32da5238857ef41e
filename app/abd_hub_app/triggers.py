"""Selects the triggers on offer, with the few options that a visitor can set."""

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
"""Maps a name on the page to the names of an option in triggers, of which a trigger has at most one."""

_IN_ALL_CORNERS = "cl"
_LARGEST = 1000
"""Limits an option, as some triggers draw as many numbers as its square."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """Describes an option that a visitor can set."""

    field: str
    """Names the option in the trigger."""
    value: float
    """Sets the first value."""
    whole: bool
    """Says whether the option takes whole numbers only."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Offers a trigger."""

    name: str
    summary: str
    options: Mapping[str, Any]
    """Holds the options of the run; if empty, the trigger's defaults apply."""
    measured: bool
    """Says whether a record of these models has measured the trigger."""

    @property
    def has_place(self) -> bool:
        """Returns whether the trigger lies in one corner."""
        return "margin" in self.knobs() and self.name != _IN_ALL_CORNERS

    def knobs(self) -> dict[str, Knob]:
        """Returns the trigger's options by their names on the page."""
        trigger = build_trigger(self.name, self.options)
        known = {field.name for field in dataclasses.fields(trigger)}  # type: ignore[arg-type]
        knobs = {}
        for name, aliases in KNOBS.items():
            for field in [alias for alias in aliases if alias in known][:1]:
                value = getattr(trigger, field)
                knobs[name] = Knob(field=field, value=value, whole=isinstance(value, int))
        return knobs

    def build(self, turned: Mapping[str, float | None]) -> tuple[Trigger, dict[str, Any]]:
        """Builds the trigger with a visitor's options, and returns it with all its options.

        Args:
            turned: option values by their names on the page. None stands for the first value, and options
                that the trigger lacks are ignored.

        Raises:
            InputError: the trigger does not take a value.
        """
        options = dict(self.options)
        for name, knob in self.knobs().items():
            value = turned.get(name)
            if value is not None:
                options[knob.field] = as_number(name, value, knob.whole)
        return build_trigger(self.name, options), options


CORNERS = ("bottom right", "bottom left", "top right", "top left")
"""Names the corners for a trigger with a margin; the first is the measured one."""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """Mirrors a trigger into another corner."""

    trigger: Trigger
    corner: str

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns the images with the mirrored trigger."""
        axes = [axis for axis, side in ((2, "top"), (3, "left")) if side in self.corner.split()]
        return self.trigger(pixels.flip(axes)).flip(axes)


def in_corner(
    offer: Offer, trigger: Trigger, options: dict[str, Any], corner: object
) -> tuple[Trigger, dict[str, Any]]:
    """Returns trigger and options for a corner, unchanged without a corner or for a trigger without a place.

    Raises:
        InputError: the corner has another name.
    """
    if corner is None or not offer.has_place:
        return trigger, options
    if not isinstance(corner, str) or corner not in CORNERS:
        raise InputError(f"corner: {str(corner)[:40]!r} is no corner; use {', '.join(CORNERS)}")
    if corner == CORNERS[0]:
        return trigger, options
    return Mirrored(trigger=trigger, corner=corner), options | {"corner": corner}


def offers(shelf: Shelf) -> dict[str, Offer]:
    """Returns the offers by name, measured triggers first, then all others that fit images of this size."""
    offered = {}
    summaries = {entry.name: entry.summary for entry in catalog("triggers")}
    for attack in shelf.attacks:
        if attack.trigger in summaries and attack.trigger not in offered and _is_plain(attack.options):
            offered[attack.trigger] = Offer(
                name=attack.trigger,
                summary=summaries[attack.trigger],
                options=attack.options,
                measured=True,
            )
    for name, summary in summaries.items():
        offered.setdefault(name, Offer(name=name, summary=summary, options={}, measured=False))
    return {name: offer for name, offer in offered.items() if _fits(offer, shelf)}


def as_number(name: str, value: Any, whole: bool) -> int | float:
    """Returns a visitor's value of an option; the trigger checks later whether it suits.

    Raises:
        InputError: the value is no number, or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise InputError(f"{name}: {str(value)[:20]!r} is no number from 0 to {_LARGEST}")
    return int(value) if whole and value == int(value) else value


def _is_plain(options: Mapping[str, Any]) -> bool:
    # A record is a stranger's file, and a text option can name a file of this machine or of the Hub.
    return all(isinstance(value, int | float) for value in options.values())


def _fits(offer: Offer, shelf: Shelf) -> bool:
    height, width = shelf.size
    try:
        trigger = build_trigger(offer.name, offer.options)
        trigger(torch.zeros(1, shelf.models[0].classifier.spec.channels, height, width))
    except InputError:
        return False
    return True
