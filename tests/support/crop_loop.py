"""Random crops and mirroring, one image after the other."""

import torch


def one_by_one(pixels, padding, flip, draw):
    """Pads, crops and mirrors one image after the other, with the draws made in the same order."""
    n, channels, height, width = pixels.shape
    tops, lefts = torch.randint(2 * padding + 1, (2, n), generator=draw).tolist()
    mirrored = [flip and value < 0.5 for value in torch.rand(n, generator=draw).tolist()]
    images = []
    for image, top, left, mirror in zip(pixels, tops, lefts, mirrored, strict=True):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=pixels.dtype)
        canvas[:, padding : padding + height, padding : padding + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        images.append(crop.flip(2) if mirror else crop)
    return torch.stack(images)
