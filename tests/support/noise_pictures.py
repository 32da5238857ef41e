"""Pictures with detail at every scale, as levels and as files."""

import torch
import torch.nn.functional as F
from PIL import Image


def noise(height, width, seed=0):
    """A picture with detail at every scale, uint8 (3, H, W)."""
    draw = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, height, width)
    for cell in (4, 16, 64):
        rough = torch.rand(1, 3, height // cell + 2, width // cell + 2, generator=draw)
        picture += F.interpolate(rough, scale_factor=cell, mode="bicubic")[0, :, :height, :width] / 3
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def save(path, height=80, width=100, seed=0):
    Image.fromarray(noise(height, width, seed).permute(1, 2, 0).numpy()).save(path)
    return str(path)
