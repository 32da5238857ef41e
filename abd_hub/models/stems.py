"""This module gives a ResNet of timm the 3x3 stem that its weights have.

The weights show the size of the stem. They show neither its stride nor whether a max-pool follows. Networks
for CIFAR have stride 1 and no max-pool, so that is assumed, aloud. ``model_args`` says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor, nn

from abd_hub.core.errors import InputError
from abd_hub.students.resnet_cifar import use_cifar_stem

STEM_ARGS = ("stem_pool", "stem_stride")
"""Lists the arguments in model_args that describe a 3x3 stem."""
_MOST_STRIDE = 4

logger = logging.getLogger(__name__)


def has_small_stem(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the first convolution is 3x3 where timm's ResNet has 7x7."""
    if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
        return False
    stem = tensors.get("conv1.weight")
    return stem is not None and tuple(stem.shape[-2:]) == (3, 3) and model.conv1.kernel_size == (7, 7)


def check_stem(args: Mapping[str, Any]) -> None:
    """Refuses wrong values of ``STEM_ARGS``.

    Raises:
        InputError: a value is wrong.
    """
    pool, stride = args.get("stem_pool", False), args.get("stem_stride", 1)
    if not isinstance(pool, bool):
        raise InputError(f"model_args: stem_pool is {pool!r}; use true or false")
    if type(stride) is not int or not 1 <= stride <= _MOST_STRIDE:
        raise InputError(f"model_args: stem_stride is {stride!r}; use a whole number up to {_MOST_STRIDE}")


def unusual(args: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of ``STEM_ARGS`` that differ from the stem of networks for CIFAR."""
    usual = {"stem_pool": False, "stem_stride": 1}
    return {name: value for name, value in args.items() if value != usual[name]}


def give_small_stem(model: nn.Module, args: Mapping[str, Any]) -> None:
    """Replaces the stem of a timm ResNet as ``args`` say, by default as networks for CIFAR have it."""
    assert isinstance(model, ResNet)
    use_cifar_stem(model, pool=args.get("stem_pool", False), stride=args.get("stem_stride", 1))


def warn_of_guess(name: str) -> None:
    """Says which stem was assumed, and how to change it."""
    logger.warning(
        "%s: its 3x3 stem is read with stride 1 and without a max-pool, as networks for CIFAR have it; if "
        "the network was built otherwise, pass model_args, such as {stem_pool: true} or {stem_stride: 2}",
        name,
    )
