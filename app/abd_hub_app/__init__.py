"""Builds the page "See a backdoor, see it gone", which shows the measurements of abd-hub, one file a tab."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abd_hub_app.page import build_page
    from abd_hub_app.server import launch
    from abd_hub_app.shelf import Shelf, ShownModel, load_shelf

__all__ = ["Shelf", "ShownModel", "build_page", "launch", "load_shelf"]
_PLACES = {"build_page": "page", "launch": "server"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is used, because the process of a run needs no page."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'shelf')}"), name)
