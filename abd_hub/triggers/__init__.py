"""Backdoor triggers: pure functions of pixels, for measuring and for poisoning, never for a defense.

A trigger is a frozen dataclass under ``@register("triggers", name)`` whose fields are its options. Places are
counted from the bottom right corner. So the published positions hold at 32x32, and the triggers also fit
images of other sizes. Results are not rounded to 8 bits.

A call of a trigger gives its test form, with which the attack is measured. A trigger whose paper poisons the
training set in another way has ``training(pixels, chance)``. A trigger whose paper adds images that carry the
trigger but keep their label has ``cover(pixels, chance)``. ``training_form`` and ``cover_form`` fall back on
the test form.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from abd_hub.core import registry
from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.core.seeding import generator

_IDENTIFYING_IMAGES = 8


def build_trigger(name: str, options: Mapping[str, Any] | None = None) -> Trigger:
    """Builds the registered trigger ``name`` with these options.

    Raises:
        InputError: the trigger is unknown, an option is unknown or missing, or the trigger refuses a value.
    """
    plugin = registry.get("triggers", name)
    options = dict(options or {})
    known = inspect.signature(plugin).parameters if inspect.isclass(plugin) else {}
    for option in options:
        if option not in known:
            raise InputError(f"trigger {name}: option {option!r} is unknown; {_remedy(option, list(known))}")

    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(f"trigger {name} needs the option {option!r}; add it to the trigger's options")

    return cast(Trigger, plugin(**options) if inspect.isclass(plugin) else plugin)


def training_form(trigger: Trigger, pixels: Tensor, chance: torch.Generator) -> Tensor:
    """Returns poisoned training images, from the trigger's ``training`` or else from the trigger itself.

    Args:
        trigger: any trigger.
        pixels: (N, C, H, W) float in [0,1].
        chance: a CPU generator for the draws that differ from image to image.

    Returns:
        The same shape, dtype, device and range.
    """
    return _form(trigger, "training", pixels, chance)


def cover_form(trigger: Trigger, pixels: Tensor, chance: torch.Generator) -> Tensor:
    """Returns cover images, which keep their label, from the trigger's ``cover`` or else the trigger itself.

    Args:
        trigger: any trigger.
        pixels: (N, C, H, W) float in [0,1]; a cover may need several images at once.
        chance: a CPU generator for the draws that differ from image to image.

    Returns:
        The same shape, dtype, device and range.

    Raises:
        InputError: the trigger's ``cover`` needs more images.
    """
    return _form(trigger, "cover", pixels, chance)


def _form(trigger: Trigger, name: str, pixels: Tensor, chance: torch.Generator) -> Tensor:
    form = getattr(trigger, name, None)
    # A trigger that is a torch module has a flag ``training``, which is no function.
    return cast(Tensor, form(pixels, chance)) if callable(form) else trigger(pixels)


def trigger_sha256(trigger: Trigger, channels: int, height: int, width: int) -> str:
    """Returns a sha256 of a fixed batch with the trigger, which identifies its effect on images of this size.

    The batch is noise. The trigger is applied in float64 on the CPU, and its result is rounded to 8 bits. So
    platforms agree unless a value is within rounding error of a half level.

    Raises:
        InputError: the trigger does not fit such images.
    """
    shape = (_IDENTIFYING_IMAGES, channels, height, width)
    images = torch.randint(0, 256, shape, generator=generator(0, "trigger", "sha256"))
    with torch.no_grad():
        levels = (trigger(images.double() / 255) * 255).round().to(torch.uint8)
    return hashlib.sha256(repr(shape).encode() + levels.numpy().tobytes()).hexdigest()


def _remedy(option: str, known: list[str]) -> str:
    if not known:
        return "it takes none"
    near = difflib.get_close_matches(option, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
