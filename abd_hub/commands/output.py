"""Several commands print by these functions."""

from __future__ import annotations

import json
from typing import Any


def speaks() -> bool:
    """Returns whether this process prints; only the first of several does."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def show(facts: Any, text: str, *, as_json: bool) -> None:
    """Prints facts as JSON, or as text with the same content."""
    print(json.dumps(facts, indent=2) if as_json else text)
