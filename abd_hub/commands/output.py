"""What several commands print alike."""

from __future__ import annotations

import json
from typing import Any


def speaks() -> bool:
    """Whether this process prints: of several, the first one does."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def show(facts: Any, text: str, *, as_json: bool) -> None:
    """Prints facts as JSON, or the text that says the same."""
    print(json.dumps(facts, indent=2) if as_json else text)
