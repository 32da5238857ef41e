"""Files that an installed library ships are found without an import of the library."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def shipped_by_sklearn(*parts: str) -> Path:
    """Returns the place of a file that scikit-learn ships; an import of it would take two seconds."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    return Path(package.submodule_search_locations[0], *parts)
