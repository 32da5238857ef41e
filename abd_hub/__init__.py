"""abd-hub distills an image classifier without its training data, and measures how its backdoor fares.

The public names stand in ``__init__.pyi``, one table for type checkers and for this file.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _read_table() -> dict[str, str]:
    """Returns the module of every public name."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    rows = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    ours = [(row.module or "", row.names) for row in rows if (row.module or "").startswith("abd_hub.")]
    return {alias.name: module for module, names in ours for alias in names}


_MODULES = _read_table()
__all__ = sorted(_MODULES)  # noqa: PLE0605 -- the type checker reads __init__.pyi


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use: torch and timm take seconds, and ``--help`` must not."""
    if name not in _MODULES:
        raise AttributeError(f"module 'abd_hub' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
