"""Triggers by their names, and a picture for those that need one."""

import numpy as np
import pytest
from PIL import Image

from abd_hub.triggers import build_trigger


@pytest.fixture(scope="module")
def sticker(tmp_path_factory):
    """A 32x32 picture file made by integer arithmetic."""
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    path = tmp_path_factory.mktemp("picture") / "sticker.png"
    Image.fromarray(((rows * 5 + columns * 11 + channels * 70) % 256).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def make(sticker):
    def make(name, **options):
        if name == "picture":
            options = {"file": str(sticker), "mode": "replace", "resize": True, **options}
        return build_trigger(name, options)

    return make
