"""Builds the page "See a backdoor, see it gone", which shows the measurements of abd-hub, one file a tab."""

from __future__ import annotations

from abd_hub_app.page import build_page
from abd_hub_app.server import launch
from abd_hub_app.shelf import Shelf, ShownModel, load_shelf

__all__ = ["Shelf", "ShownModel", "build_page", "launch", "load_shelf"]
