"""Settings that are installed with the package, by names such as cifar10/fast-cpu.

``recipes/`` links to the folders of ``presets/``, so that each file exists once.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from abd_hub.core.errors import InputError

FOLDER = Path(__file__).with_name("presets")


def preset_names() -> list[str]:
    """Returns the names of all presets, sorted."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in FOLDER.glob("*/*.yaml"))


def preset_file(name: str) -> str:
    """Returns the path of a preset.

    Raises:
        InputError: there is none of this name; the message names the nearest ones.
    """
    known = preset_names()
    if name in known:
        return str(FOLDER / f"{name}.yaml")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    raise InputError(f"preset: {name!r} is unknown; use one of {', '.join(near)}")


def preset_like(path: str) -> str | None:
    """Returns the name of the preset that a path such as recipes/cifar10/fast-cpu.yaml means, or None."""
    parts = Path(path).with_suffix("").parts
    name = "/".join(parts[-2:])
    return name if name in preset_names() else None
