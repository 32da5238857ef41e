"""Backdoor triggers: pure functions of pixels, for measuring and for poisoning, never for a defence.

A trigger is a frozen dataclass under ``@register("triggers", name)`` whose fields are its options. Places
are counted from the bottom right corner, so that the published positions hold at 32x32 and the triggers
fit images of other sizes too. Results are not rounded to 8 bits.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, cast

from abd_hub import registry
from abd_hub.types import InputError, Trigger


def build_trigger(name: str, options: Mapping[str, Any] | None = None) -> Trigger:
    """The registered trigger ``name`` with these options.

    Raises:
        InputError: no such trigger, an unknown or missing option, or a value the trigger refuses.
    """
    plugin = registry.get("triggers", name)
    options = dict(options or {})
    known = inspect.signature(plugin).parameters if inspect.isclass(plugin) else {}
    for option in options:
        if option not in known:
            raise InputError(f"trigger {name}: option {option!r} is unknown; {_remedy(option, list(known))}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(f"trigger {name} needs the option {option!r}")
    return cast(Trigger, plugin(**options) if inspect.isclass(plugin) else plugin)


def _remedy(option: str, known: list[str]) -> str:
    if not known:
        return "it takes none"
    near = difflib.get_close_matches(option, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
