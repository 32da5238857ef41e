"""Loads example images: test digits for models of digits, else photographs that installed packages bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from abd_hub import load_images
from abd_hub_app.images import to_picture, to_pixels
from abd_hub_app.shelf import Shelf

_OF_EACH_CLASS = 2
_OF_GRADIO = {
    "lion.jpg": "lion",
    "cheetah1.jpg": "cheetah",
    "cheetah.jpg": "cheetah",
    "tower.jpg": "tower",
}
_OF_SCIKIT_LEARN = {"china.jpg": "temple", "flower.jpg": "flower"}


@dataclass(frozen=True, kw_only=True)
class Example:
    """Holds an image of the gallery."""

    picture: Image.Image
    """Holds the image in RGB, in the size of the smallest model's input."""
    caption: str
    label: int | None
    """Holds the true class, or None if it is unknown or no class of the models."""


def load_examples(shelf: Shelf) -> tuple[Example, ...]:
    """Returns two test digits of each class, or photographs; the first digit is not of the target class."""
    if not _of_digits(shelf):
        return tuple(_photographs(shelf))

    target = shelf.attacks[0].target if shelf.attacks else None
    return tuple(sorted(_digits(), key=lambda example: example.label == target))


def _of_digits(shelf: Shelf) -> bool:
    records = (model.record for model in shelf.models)
    measured = {record.data.id for record in records if record is not None and record.data is not None}
    return measured == {"digits"} and shelf.size == (8, 8)


def _digits() -> list[Example]:
    """Returns the first two test digits of each class, in rounds through all classes."""
    digits = load_images("digits", "test")
    places = [(digits.labels == label).nonzero()[:_OF_EACH_CLASS, 0] for label in range(len(digits.names))]
    return [
        Example(
            picture=to_picture(digits.pixels([int(of_class[turn])])[0], side=1),
            caption=f"digit {label}",
            label=label,
        )
        for turn in range(_OF_EACH_CLASS)
        for label, of_class in enumerate(places)
    ]


def _photographs(shelf: Shelf) -> Iterator[Example]:
    """Yields photographs as the smallest model gets them. None is of a class of CIFAR-10."""
    for picture, caption in (*_of_gradio(), *_of_scikit_learn()):
        pixels = shelf.smallest.prepare(to_pixels(picture))
        yield Example(picture=to_picture(pixels[0], side=1), caption=caption, label=None)


def _of_gradio() -> Iterator[tuple[Image.Image, str]]:
    from gradio.media import get_image

    for name, caption in _OF_GRADIO.items():
        try:
            file = get_image(name)
        except (FileNotFoundError, ValueError):
            continue  # another version of gradio may bring other pictures
        with Image.open(file) as picture:
            yield picture.convert("RGB"), caption


def _of_scikit_learn() -> Iterator[tuple[Image.Image, str]]:
    from sklearn.datasets import load_sample_image

    for name, caption in _OF_SCIKIT_LEARN.items():
        yield Image.fromarray(load_sample_image(name)), caption
