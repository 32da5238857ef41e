"""Images to begin with: test digits for models of digits, else scikit-learn's two photographs."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from abd_hub import load_images
from abd_hub_app.images import to_picture
from abd_hub_app.shelf import Shelf

_A_CLASS = 2


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image of the gallery."""

    picture: Image.Image
    """RGB, at its own size."""
    caption: str
    label: int | None
    """True class; None where it is not known."""


def load_examples(shelf: Shelf) -> tuple[Example, ...]:
    """The first two test digits of each class, or photographs; the first one is no image of the target."""
    if not _of_digits(shelf):
        return _photographs()
    found = _digits()
    target = shelf.attacks[0].target if shelf.attacks else None
    return tuple(sorted(found, key=lambda example: example.label == target))


def _of_digits(shelf: Shelf) -> bool:
    records = (model.record for model in shelf.models)
    measured = {record.data.id for record in records if record is not None and record.data is not None}
    return measured == {"digits"} and shelf.size == (8, 8)


def _digits() -> list[Example]:
    data = load_images("digits", "test")
    found = []
    for round_ in range(_A_CLASS):
        for label, name in enumerate(data.names):
            place = int((data.labels == label).nonzero()[round_])
            picture = to_picture(data.pixels([place])[0], side=1)
            found.append(Example(picture=picture, caption=f"digit {name}", label=label))
    return found


def _photographs() -> tuple[Example, ...]:
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    names = ("a temple", "a flower")
    return tuple(
        Example(picture=Image.fromarray(image), caption=name, label=None)
        for image, name in zip(images, names, strict=True)
    )
