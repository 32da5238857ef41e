"""Loads example images: test digits for models of digits, else scikit-learn's two photographs."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from abd_hub_app.shelf import BUNDLED, Shelf

_LABELS = 10


@dataclass(frozen=True, kw_only=True)
class Example:
    """Holds an image of the gallery."""

    picture: Image.Image
    """Holds the image in RGB, at its own size."""
    caption: str
    label: int | None
    """Holds the true class, or None if it is unknown."""


def load_examples(shelf: Shelf) -> tuple[Example, ...]:
    """Returns two test digits of each class, or photographs; the first digit is not of the target class."""
    if not _of_digits(shelf):
        return _photographs()

    digits = _digits()
    target = shelf.attacks[0].target if shelf.attacks else None
    return tuple(sorted(digits, key=lambda example: example.label == target))


def _of_digits(shelf: Shelf) -> bool:
    records = (model.record for model in shelf.models)
    measured = {record.data.id for record in records if record is not None and record.data is not None}
    return measured == {"digits"} and shelf.size == (8, 8)


def _digits() -> list[Example]:
    # The strip has the pixels of the data set; to load scikit-learn would take a tenth of the start.
    strip = Image.open(BUNDLED / "digits.png").convert("RGB")
    places = range(strip.width // strip.height)
    side = strip.height

    return [
        Example(
            picture=strip.crop((side * place, 0, side * (place + 1), side)),
            caption=f"digit {place % _LABELS}",
            label=place % _LABELS,
        )
        for place in places
    ]


def _photographs() -> tuple[Example, ...]:
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    names = ("a temple", "a flower")
    return tuple(
        Example(picture=Image.fromarray(image), caption=name, label=None)
        for image, name in zip(images, names, strict=True)
    )
