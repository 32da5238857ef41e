"""Images of several sizes in one data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from abd_hub.core.errors import InputError


class MixedImages:
    """Holds images of several sizes and answers like the tensor of images of one size.

    Args:
        images: each (C, H, W) uint8, all with the same C, at least one.

    Raises:
        InputError: there is no image, or one has another type or number of channels.
    """

    def __init__(self, images: Sequence[Tensor]) -> None:
        if not images:
            raise InputError("images: there is none; give at least one")
        for index, image in enumerate(images):
            if image.ndim != 3 or image.dtype != torch.uint8 or image.shape[0] != images[0].shape[0]:
                raise InputError(
                    f"images: image {index} is {tuple(image.shape)} {image.dtype}; give (C, H, W) uint8, all "
                    "with the same C"
                )
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._images)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> MixedImages:
        """Returns the indexed images, in the order of the index."""
        if isinstance(index, slice):
            return MixedImages(self._images[index])
        places = (
            index.nonzero().flatten() if isinstance(index, Tensor) and index.dtype == torch.bool else index
        )
        return MixedImages([self._images[int(place)] for place in places])

    @property
    def device(self) -> torch.device:
        """Returns the device of the images."""
        return self._images[0].device

    @property
    def channels(self) -> int:
        """Returns the number of channels of every image."""
        return self._images[0].shape[0]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Returns height and width of each image."""
        return [(image.shape[1], image.shape[2]) for image in self._images]

    def to(self, device: torch.device | str) -> MixedImages:
        """Returns the same images on ``device``."""
        return MixedImages([image.to(device) for image in self._images])

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images of each size as (m, C, H, W), with their places, (m,) int64 on their device."""
        places: dict[tuple[int, int], list[int]] = {}
        for place, size in enumerate(self.sizes):
            places.setdefault(size, []).append(place)
        for some in places.values():
            index = torch.tensor(some, device=self.device)
            yield index, torch.stack([self._images[place] for place in some])


def of_one_size(images: Tensor | MixedImages, remedy: str) -> Tensor:
    """Returns images of one size, (n, C, H, W) uint8, for a consumer that needs this.

    Args:
        images: of a data set.
        remedy: end of the message.

    Raises:
        InputError: the images have several sizes.
    """
    if isinstance(images, Tensor):
        return images
    groups = list(images.groups())
    if len(groups) == 1:
        return groups[0][1]
    first, other = list(dict.fromkeys(images.sizes))[:2]
    raise InputError(
        f"images: have several sizes, such as {first[0]}x{first[1]} and {other[0]}x{other[1]}, and one is "
        f"needed; {remedy}"
    )
