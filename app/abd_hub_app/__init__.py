"""See a backdoor, see it gone: the page that shows what abd-hub measures. One file a tab."""

from __future__ import annotations

from abd_hub_app.page import build_page
from abd_hub_app.server import launch
from abd_hub_app.shelf import Shelf, ShownModel, load_shelf

__all__ = ["Shelf", "ShownModel", "build_page", "launch", "load_shelf"]
