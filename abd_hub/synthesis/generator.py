"""The image generator of the data-free methods, see ``Generator``."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec

LARGEST_START = 16
"""Maps begin at most this wide: a linear layer to 56x56 maps for 224x224 images would hold 40 M weights."""

Output = Literal["normalized", "standardized", "pixels"]


class Generator(nn.Module):
    """Noise (N, z_dim) to images (N, channels, H, W).

    ZSKT's network (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, supplement), which the later methods
    share but for its last layer and for details that are left out here (no bias before a BatchNorm in CMI's,
    eps 0.8 in DAFL's): linear to ``channels`` maps (128 in the papers) of a quarter of the size, then twice
    up-sampling and a 3x3 convolution; images wider than 64 pixels are doubled more often.

    Args:
        spec: of the images.
        z_dim: length of the noise vector.
        channels: feature maps; the last block has half as many.
        output: ``normalized`` ends with a BatchNorm that gives each channel its own scale and shift, images
            in the teacher's *normalized* space, unbounded (ZSKT); ``standardized`` with tanh and a BatchNorm
            without scale and shift, images in that same space whose channels have mean 0 and variance 1 over
            the batch (DAFL, DFAD); ``pixels`` ends with a sigmoid, images in [0, 1] (CMI, Fast).

    Raises:
        InputError: height or width cannot be halved twice.
    """

    def __init__(
        self, spec: DataSpec, z_dim: int, channels: int = 128, output: Output = "normalized"
    ) -> None:
        super().__init__()
        if spec.height % 4 or spec.width % 4:
            raise InputError(
                f"input_size: the generator doubles twice, so height and width must be multiples of 4, "
                f"got {spec.height}x{spec.width}; give the teacher another input_size"
            )
        doublings = _doublings(spec.height, spec.width)
        start = (channels, spec.height >> doublings, spec.width >> doublings)
        self.layers = nn.Sequential(
            nn.Linear(z_dim, start[0] * start[1] * start[2]),
            nn.Unflatten(1, start),
            nn.BatchNorm2d(channels),
            *[layer for _ in range(doublings - 1) for layer in _doubled(channels, channels)],
            *_doubled(channels, channels // 2),
            nn.Conv2d(channels // 2, spec.channels, 3, padding=1),
            *_last(output, spec.channels),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """(N, z_dim) to (N, channels, H, W), in the space of ``output``."""
        images: Tensor = self.layers(noise)
        return images


class DoublingConv2d(nn.Conv2d):
    """A 3x3 convolution of maps doubled by nearest neighbors, without the doubled maps.

    Each output sees only 2x2 different inputs, so the same sum is a transposed convolution of stride 2 with
    the kernel spread over 4x4: 16 instead of 36 products an input. With their gradients, the two of ZSKT's
    generator take 227 instead of 472 ms for 64 images in float32 on one AVX-512 core.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        kernel = self.weight.flip(2, 3)
        corners = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
        spread = torch.stack([F.pad(kernel, corner) for corner in corners]).sum(dim=0)
        # The kernel is too fresh to lead PyTorch to channels_last, which saves a quarter of the time.
        maps = maps.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(maps, spread.transpose(0, 1), self.bias, stride=2, padding=1)


def _doubled(channels: int, wanted: int) -> list[nn.Module]:
    return [
        nn.Identity(),  # keeps the places, and with them the names, of the weights in checkpoints
        DoublingConv2d(channels, wanted, 3, padding=1),
        nn.BatchNorm2d(wanted),
        nn.LeakyReLU(0.2),
    ]


def _last(output: Output, channels: int) -> list[nn.Module]:
    if output == "pixels":
        return [nn.Sigmoid()]
    if output == "standardized":
        return [nn.Tanh(), nn.BatchNorm2d(channels, affine=False)]
    return [nn.BatchNorm2d(channels)]


def _doublings(height: int, width: int) -> int:
    """At least two; more while the first maps are too wide and can be halved."""
    count = 2
    while (
        max(height, width) >> count > LARGEST_START and not (height >> count) % 2 and not (width >> count) % 2
    ):
        count += 1
    return count
