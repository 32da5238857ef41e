"""Inspects a classifier for a backdoor: makes the images, runs the inspection, and draws what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abd_hub.core import files, registry
from abd_hub.core.errors import InputError
from abd_hub.core.inspections import (
    REPORT_FILE,
    FoundTrigger,
    Inspection,
    InspectionReport,
    picture_name,
)
from abd_hub.core.picture_file import decode_picture, read_file
from abd_hub.core.records import DataSpec
from abd_hub.data.images import load_images
from abd_hub.learning.modes import in_eval_mode
from abd_hub.models.classifier import Classifier
from abd_hub.report.grids import save_noted
from abd_hub.synthesis import photographs
from abd_hub.synthesis.patches import make_patches

PATCHES = 10_000
"""Patches of photographs where no images are given."""
PATCH_BYTES = 1 << 28
"""Most memory for them: 256 MiB hold 1,783 patches of 224x224."""
SHOWN = 6
"""Images in a picture of a trigger."""
SEARCHED = 20
"""So many times as many images are searched for those of another class than the trigger's."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def inspect_model(
    classifier: Classifier,
    *,
    images: Tensor | None = None,
    inspection: Inspection | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> InspectionReport:
    """Examines whether a classifier has a backdoor, and towards which class; the classifier stays as it is.

    Args:
        classifier: any, from ``load_classifier`` or made by hand.
        images: (n, C, H, W), uint8 or float in [0, 1], without labels. By default patches of the two
            photographs that scikit-learn brings along.
        inspection: settings; by default trigger inversion.
        seed: of every draw.
        device: where to compute; by default where the classifier is. Afterwards it is back where it was.

    Raises:
        InputError: the classifier or the images do not allow an inspection.
    """
    chosen = registry.get("inspections", "trigger_inversion")() if inspection is None else inspection
    home = classifier.mean.device
    place = home if device is None else torch.device(device)
    if images is not None:
        check_images(images, classifier.spec)
        shown = images.to(place)
    elif chosen.uses_images:
        shown = default_images(classifier.spec, seed, place)
    else:
        shown = torch.empty(0, *_shape(classifier.spec), dtype=torch.uint8, device=place)
    try:
        return chosen.inspect(classifier.to(place), shown, seed)
    finally:
        classifier.to(home)


def default_images(
    spec: DataSpec, seed: int = 0, device: torch.device | str = "cpu", *, most: int | None = None
) -> Tensor:
    """Makes patches of photographs in the classifier's size.

    Returns:
        (n, C, H, W) uint8, ``most`` (by default 10,000) or as many as 256 MiB hold.

    Raises:
        InputError: the classifier takes images of another number of channels than 1 or 3.
    """
    if spec.channels not in (1, 3):
        raise InputError(
            f"images: the classifier takes {spec.channels} channels, photographs have 3; give images"
        )
    pictures = [photographs.load("images", f"sklearn:{name}").pixels for name in photographs.SHIPPED_NAMES]
    shape = _shape(spec)
    count = max(1, min(most or PATCHES, PATCH_BYTES // (shape[0] * shape[1] * shape[2])))
    return make_patches(pictures, count, shape, seed, torch.device(device))


def read_images(source: str, split: str, classifier: Classifier) -> Tensor:
    """Reads images without their labels, as the classifier's input: resized and cropped as for an answer.

    Args:
        source: a folder of picture files, or a data set as for ``load_images``.
        split: of the data set; a folder of picture files has none.
        classifier: on the CPU.

    Returns:
        (n, C, H, W) uint8, in the size of the input.

    Raises:
        InputError: there is no image, or one cannot be read.
    """
    found = _picture_files(Path(source).expanduser())
    if found:
        return torch.cat([_read_picture(file, classifier) for file in found])
    return load_images(source, split, limit=PATCHES, prepare=classifier.prepare).tensor


def write_inspection(
    report: InspectionReport, classifier: Classifier, folder: str | Path, images: Tensor | None = None
) -> list[str]:
    """Writes the report as JSON, and a picture of each trigger that was found.

    Args:
        report: of ``inspect_model``.
        classifier: whose answers stand below the images.
        folder: is made where it is missing.
        images: (n, C, H, W), uint8 or float in [0, 1]; the first that are of another class are shown. By
            default they are patches of photographs.

    Returns:
        The names of the files.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    files.write_json(place / REPORT_FILE, report.to_json())
    return [REPORT_FILE, *write_triggers(report, classifier, place, images)]


def write_triggers(
    report: InspectionReport, classifier: Classifier, folder: str | Path, images: Tensor | None = None
) -> list[str]:
    """Writes a picture of each trigger that was found; the arguments and the result are as above."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    drawn = [trigger for trigger in report.triggers if trigger.mask is not None or trigger.delta is not None]
    if drawn and images is None:
        images = default_images(classifier.spec, device=classifier.mean.device, most=SEARCHED * SHOWN)
    written = []
    for trigger in drawn:
        name = picture_name(trigger.family, trigger.label)
        with files.atomic_path(place / name) as temporary:
            _draw(trigger, classifier, images, temporary)
        written.append(name)
    return written


def _draw(trigger: FoundTrigger, classifier: Classifier, images: Tensor | None, path: Path) -> None:
    """Images in the first row, the same with the trigger in the second; the trigger is the last column."""
    assert images is not None, "write_inspection makes them"
    device = classifier.mean.device
    some = images[: SEARCHED * SHOWN].to(device)
    pixels = some if some.is_floating_point() else some.float() / 255
    before = _answers(classifier, pixels)
    kept = (before != trigger.label).nonzero().flatten()[:SHOWN]
    pixels, before = pixels[kept], before[kept]
    triggered = trigger(pixels)
    after = _answers(classifier, triggered)

    pattern, amount = (part[None].to(pixels) for part in trigger.shown())
    labels = classifier.spec.labels
    cells = torch.cat([pixels, pattern, triggered, amount.expand_as(pattern)])
    notes = [*_names(labels, before), "trigger", *_names(labels, after), "amount"]
    reached = (after == trigger.label).tolist()
    marked = [False] * (len(kept) + 1) + reached + [False]
    save_noted(cells, marked, notes, path, columns=len(kept) + 1)


@torch.no_grad()
def _answers(classifier: Classifier, pixels: Tensor) -> Tensor:
    if not len(pixels):
        return torch.empty(0, dtype=torch.int64, device=pixels.device)
    with in_eval_mode(classifier):
        chosen: Tensor = classifier(pixels).argmax(dim=1)
    return chosen


def _names(labels: Sequence[str], classes: Tensor) -> list[str]:
    """Names that fit below an image."""
    names = [labels[label] for label in classes.tolist()]
    return [name if len(name) <= 9 else f"{name[:8]}…" for name in names]


def _shape(spec: DataSpec) -> tuple[int, int, int]:
    return spec.channels, spec.height, spec.width


def check_images(images: Tensor, spec: DataSpec) -> None:
    """Refuses images of another shape or range than the classifier takes.

    Raises:
        InputError: they are not (n, C, H, W) with its channels, or neither uint8 nor floats in [0, 1].
    """
    if images.ndim != 4 or images.shape[1] != spec.channels:
        shape, wanted = tuple(images.shape), f"(n, {spec.channels}, H, W)"
        raise InputError(f"images: have shape {shape}; the classifier needs {wanted}")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():
        raise InputError(
            f"images: {images.dtype} with other values than [0, 1]; give uint8, or floats in [0, 1]"
        )


def _picture_files(folder: Path) -> list[Path]:
    """All picture files in a folder and the folders in it, the first 10,000; none where it holds others."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:PATCHES]


@torch.no_grad()
def _read_picture(file: Path, classifier: Classifier) -> Tensor:
    field = f"images: {file.name}"
    levels = np.array(decode_picture(read_file(file, field), field))
    pixels = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255
    return (classifier.prepare(pixels) * 255).round().to(torch.uint8)
