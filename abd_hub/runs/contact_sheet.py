"""Draws all triggers on the same few images, one row each, for ``abd-hub list triggers --picture``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.files import atomic_path
from abd_hub.core.folder import check_file
from abd_hub.data.images import load_images
from abd_hub.report.grids import SheetRow, save_contact_sheet
from abd_hub.triggers import build_trigger

IMAGES = 4
SIDE = 32
CROPS = (("china.jpg", 213, 427), ("china.jpg", 180, 200), ("flower.jpg", 120, 427), ("flower.jpg", 200, 220))
"""Lists (file, left edge, side) of squares that end at the bottom of scikit-learn's two photographs."""
_STRONGEST = 64


def draw_triggers(path: str | Path, dataset: str | None = None, split: str = "test") -> list[str]:
    """Writes the sheet: a row of clean images, then a row for every trigger that needs no option.

    Beside each row stands the difference to the clean images, and gray is no difference. A factor scales
    each row so that its largest difference fits.

    Args:
        path: the PNG file to write; an existing one is replaced.
        dataset: Hub id or folder whose first images are shown; None for crops of photographs.
        split: of the data set.

    Returns:
        The triggers left out because they need options.

    Raises:
        InputError: the file cannot be written there, or the data set cannot be read.
    """
    path = Path(path)
    check_file(path, "picture", suffix=".png")

    clean = load_images(dataset, split, limit=IMAGES).pixels() if dataset else sample_images()
    names = [entry.name for entry in registry.catalog("triggers")]
    left_out = [name for name in names if _needs_options(name)]

    rows = [SheetRow("clean", "x".join(str(n) for n in clean.shape[2:]), (clean,))]
    rows += _rows([name for name in names if name not in left_out], clean)

    with atomic_path(path) as temporary:
        save_contact_sheet(rows, ("images", "difference to clean; gray is none"), temporary)
    return left_out


def sample_images() -> Tensor:
    """Returns crops of the two photographs that scikit-learn ships, (4, 3, 32, 32) in [0,1]."""
    from sklearn.datasets import load_sample_image

    crops = []
    for file, left, side in CROPS:
        photograph = Image.fromarray(load_sample_image(file))
        bottom = photograph.height
        box = (left, bottom - side, left + side, bottom)
        crops.append(np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BOX, box)))

    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def _needs_options(name: str) -> bool:
    plugin = registry.get("triggers", name)
    if not inspect.isclass(plugin):
        return False
    return any(option.default is option.empty for option in inspect.signature(plugin).parameters.values())


def _rows(names: list[str], clean: Tensor) -> Iterator[SheetRow]:
    for name in names:
        try:
            triggered = build_trigger(name)(clean)
        except InputError:
            # Only the size of the images can be wrong, as the trigger has no options.
            yield SheetRow(name, "does not fit")
            continue
        difference = triggered - clean
        factor = _factor(float(difference.abs().max()))
        yield SheetRow(name, f"difference x {factor:g}", (triggered, 0.5 + factor * difference))


def _factor(largest: float) -> float:
    """Returns the largest power of two from 1/2 to 64 that keeps ``0.5 + factor * difference`` in [0,1]."""
    if largest == 0:
        return 1
    return float(min(_STRONGEST, 2.0 ** math.floor(math.log2(0.5 / largest))))
