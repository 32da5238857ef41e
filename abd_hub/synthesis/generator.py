"""The image generator of ZSKT (Micaelli & Storkey, NeurIPS 2019, arXiv 1905.09768, supplement)."""

from __future__ import annotations

from torch import Tensor, nn

from abd_hub.types import DataSpec, InputError


class Generator(nn.Module):
    """Noise (N, z_dim) to images (N, channels, H, W) in the teacher's *normalised* space.

    Linear to ``channels`` maps (128 in the paper) of a quarter of the size, then twice up-sampling and a
    3x3 convolution. The last BatchNorm gives each channel its own scale and shift: images are unbounded.
    """

    def __init__(self, spec: DataSpec, z_dim: int, channels: int = 128) -> None:
        super().__init__()
        if spec.height % 4 or spec.width % 4:
            raise InputError(
                f"input_size: the generator doubles twice, so height and width must be multiples of 4, "
                f"got {spec.height}x{spec.width}; give the teacher another input_size"
            )
        start = (channels, spec.height // 4, spec.width // 4)
        self.layers = nn.Sequential(
            nn.Linear(z_dim, start[0] * start[1] * start[2]),
            nn.Unflatten(1, start),
            nn.BatchNorm2d(channels),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.BatchNorm2d(channels // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels // 2, spec.channels, 3, padding=1),
            nn.BatchNorm2d(spec.channels),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """(N, z_dim) to (N, channels, H, W), normalised scale."""
        images: Tensor = self.layers(noise)
        return images
