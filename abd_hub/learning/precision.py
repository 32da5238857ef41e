"""A network's passes in another precision than its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["no", "bf16"]
"""Is float32 (no) or bfloat16 (bf16)."""


def in_precision(model: Any, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Returns a function from pixels to the logits of a model, whose passes run in this precision.

    The logits have the type of the pixels. With "no" the function is the model itself.
    """
    if precision == "no":
        passes: Callable[[Tensor], Tensor] = model
        return passes

    def logits(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
            found: Tensor = model(pixels)
        return found.to(pixels.dtype)

    return logits
