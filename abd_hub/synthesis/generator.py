"""Builds the image generator of the data-free methods, see ``Generator``."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec

LARGEST_START = 16
"""Limits the width of the first maps. For 224x224 images, a linear layer to 56x56 would hold 40 M weights."""

Output = Literal["normalized", "standardized", "pixels"]


class Generator(nn.Module):
    """Maps noise (N, z_dim) to images (N, channels, H, W).

    This is the network of ZSKT (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, supplement). A linear
    layer leads to ``channels`` maps (128 in the papers) of a quarter of the size. Two blocks follow, each of
    up-sampling and a 3x3 convolution. Images wider than 64 pixels get more blocks.

    Later methods use the same network with another last layer. Two of their details are left out here: CMI
    has no bias before a BatchNorm, and DAFL has eps 0.8.

    Args:
        spec: size of the images.
        z_dim: length of the noise vector.
        channels: feature maps; the last block has half as many.
        output: the last layer, and with it the space of the images.
            ``normalized`` (ZSKT) ends with a BatchNorm that learns scale and shift of each channel. Images
            are unbounded, in the teacher's *normalized* space.
            ``standardized`` (DAFL, DFAD) ends with tanh and a BatchNorm without scale and shift. Images are
            in the same space, and each channel has mean 0 and variance 1 over the batch.
            ``pixels`` (CMI, DFQ, Fast) ends with a sigmoid. Images are in [0, 1].

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
                f"got {spec.height}x{spec.width}; set teacher.input_size to such a size"
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
        """Maps (N, z_dim) to (N, channels, H, W), in the space of ``output``."""
        images: Tensor = self.layers(noise)
        return images


class DoublingConv2d(nn.Conv2d):
    """Doubles maps by nearest neighbors and applies a 3x3 convolution, without the doubled maps.

    Each output depends on only 2x2 different inputs. So a transposed convolution of stride 2, with the kernel
    spread over 4x4, gives the same sum. It needs 16 instead of 36 products an input. ZSKT's generator has two
    such layers. With gradients, they take 227 instead of 472 ms for 64 images in float32 on one AVX-512 core.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        kernel = self.weight.flip(2, 3)
        corners = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
        spread = torch.stack([F.pad(kernel, corner) for corner in corners]).sum(dim=0)
        # PyTorch would not choose channels_last for this kernel; the format saves a quarter of the time.
        maps = maps.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(maps, spread.transpose(0, 1), self.bias, stride=2, padding=1)


def _doubled(channels: int, wanted: int) -> list[nn.Module]:
    """Returns the layers of one block, which doubles height and width."""
    return [
        nn.Identity(),  # keeps the names of the weights in checkpoints, which count the layers
        DoublingConv2d(channels, wanted, 3, padding=1),
        nn.BatchNorm2d(wanted),
        nn.LeakyReLU(0.2),
    ]


def _last(output: Output, channels: int) -> list[nn.Module]:
    """Returns the last layers for an ``output``."""
    if output == "pixels":
        return [nn.Sigmoid()]
    if output == "standardized":
        return [nn.Tanh(), nn.BatchNorm2d(channels, affine=False)]
    return [nn.BatchNorm2d(channels)]


def _doublings(height: int, width: int) -> int:
    """Returns the number of blocks: two, or more while the first maps are too wide and can be halved."""
    count = 2
    while (
        max(height, width) >> count > LARGEST_START and not (height >> count) % 2 and not (width >> count) % 2
    ):
        count += 1
    return count
