"""Inspect and purify poisoned and clean teachers of CIFAR-10 and GTSRB, and measure the copies.

    python recipes/purify_teachers.py --published FOLDER --triggers PICTURES --zoo ZOO \
        --data cifar10=DATA gtsrb=DATA --seeds 0 1 2 --results recipes/results/purification

FOLDER holds published checkpoints, see published_teachers.py, and PICTURES the triggers that came with them.
ZOO is a folder of zoo/build.py. A clean teacher is purified by force; its control is the trigger of
resnet20_grey5_0, or a white square towards class 0. Test images measure the copies, and no step of the
purification sees them. One JSON file is written for each teacher and seed, and one that is there is not
measured again.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from device_name import name_of
from PIL import Image
from published_teachers import TARGETS, load
from torch import Tensor

from abd_hub import (
    Classifier,
    find_plugin,
    load_classifier,
    load_images,
    purify_model,
    read_teacher_record,
)

CONTROL = ("grey5.png", 0)
"""Trigger and target that are measured on clean teachers."""
PICTURES = {"resnet20_grey5_0": "grey5.png", "resnet20_colour5_0": "colour5.png"}
"""Each replaces rows and columns 24 to 28."""


def trigger_of(name: str, pictures: Path) -> Callable[[Tensor], Tensor]:
    """Returns the attack of a teacher on (N, 3, 32, 32) pixels in [0, 1]."""
    if name.endswith("badnets_8"):
        return white_square
    if name == "trojan_wm_2":
        mark = read(pictures / "trojan_wm.png")
        return lambda pixels: (pixels + mark.to(pixels)).clamp(0, 1)
    patch = read(pictures / PICTURES.get(name, CONTROL[0]))
    return lambda pixels: with_patch(pixels, patch)


def white_square(pixels: Tensor) -> Tensor:
    """Four by four white pixels, one pixel from the lower right corner."""
    pixels = pixels.clone()
    pixels[:, :, 27:31, 27:31] = 1
    return pixels


def with_patch(pixels: Tensor, patch: Tensor) -> Tensor:
    """The patch in rows and columns 24 to 28; a picture of the whole image is cut there."""
    pixels = pixels.clone()
    part = patch[:, 24:29, 24:29] if patch.shape[-1] == 32 else patch
    pixels[:, :, 24:29, 24:29] = part.to(pixels)
    return pixels


def picture_and_mask(patch: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the patch as a picture of 32x32 with a mask, for the trigger ``picture``; returns both files."""
    whole, mask = torch.zeros(3, 32, 32), torch.zeros(1, 32, 32)
    mask[:, 24:29, 24:29] = 1
    whole = with_patch(whole[None], read(patch))[0]
    folder.mkdir(parents=True, exist_ok=True)
    picture, covered = folder / f"{patch.stem}_picture.png", folder / f"{patch.stem}_mask.png"
    Image.fromarray((whole.permute(1, 2, 0) * 255).round().byte().numpy()).save(picture)
    Image.fromarray((mask[0] * 255).byte().numpy()).save(covered)
    return picture, covered


def read(file: Path) -> Tensor:
    pixels = np.array(Image.open(file).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class Subject:
    """A teacher, what its backdoor is, and how a copy is measured."""

    name: str
    teacher: Classifier
    attack: str
    target: int | None
    """The class that the backdoor leads to; None for a clean teacher and for several targets."""
    poisoned: bool
    measure: Callable[[Classifier], dict]


@torch.no_grad()
def rates(model: Classifier, images: Tensor, labels: Tensor, attack: Callable, goals: Tensor) -> dict:
    """Accuracy, and the share of images of other classes that the attack turns into their goals."""
    right = hits = others = 0
    parts = (one.to(model.mean.device).split(500) for one in (images, labels, goals))
    for some, true, goal in zip(*parts, strict=True):
        pixels = some.float() / 255
        right += int((model(pixels).argmax(1) == true).sum())
        other = true != goal
        hits += int((model(attack(pixels[other])).argmax(1) == goal[other]).sum())
        others += int(other.sum())
    return {"accuracy": right / len(images), "asr": hits / others, "images": len(images)}


def test_images(place: str, limit: int) -> tuple[Tensor, Tensor]:
    """Draws the images that measure the copies, the same for every teacher."""
    data = load_images(place, "test", image_size=32)
    chosen = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))[:limit]
    return data.images[chosen], data.labels[chosen]


def published(options: argparse.Namespace, places: dict[str, str], name: str) -> Subject:
    teacher = load(options.published, name)
    images, labels = test_images(places["gtsrb" if name.startswith("gtsrb") else "cifar10"], options.limit)
    poisoned = TARGETS[name] is not None
    goals = torch.full_like(labels, TARGETS[name] if poisoned else CONTROL[1])
    measure = functools.partial(
        rates, images=images, labels=labels, attack=trigger_of(name, options.triggers), goals=goals
    )
    attack = name.removesuffix("_0") if poisoned else "none"
    return Subject(name, teacher, attack, TARGETS[name], poisoned, measure)


def own(options: argparse.Namespace, places: dict[str, str], folder: Path) -> Subject:
    """Loads a teacher of the zoo; its record names the trigger that measures it."""
    facts = read_teacher_record(folder).poison
    teacher = load_classifier(f"local-dir:{folder}")
    images, labels = test_images(places[folder.parent.name], options.limit)
    trigger, given = (facts.trigger, dict(facts.options)) if facts else ("badnet_sq", {})
    target = facts.target if facts else None
    if facts and facts.labels == "all_to_all":
        goals = (labels + 1) % teacher.spec.num_classes
    else:
        goals = torch.full_like(labels, CONTROL[1] if target is None else target)
    attack = find_plugin("triggers", trigger)(**given)
    measure = functools.partial(rates, images=images, labels=labels, attack=attack, goals=goals)
    name = f"{folder.parent.name}_{folder.name}"
    return Subject(name, teacher, facts.trigger if facts else "none", target, facts is not None, measure)


def subjects(
    options: argparse.Namespace, places: dict[str, str], seed: int
) -> Iterator[tuple[Subject, Path]]:
    """Yields the teachers that are still to be measured, each with the file of its result."""
    found: dict[str, Callable[[], Subject]] = {}
    for name in TARGETS if options.published else ():
        found[name] = functools.partial(published, options, places, name)
    for record in sorted(options.zoo.glob("*/*/metrics.json")) if options.zoo else ():
        name = f"{record.parts[-3]}_{record.parts[-2]}"
        found[name] = functools.partial(own, options, places, record.parent)

    for name, load_subject in found.items():
        file = options.results / f"{name}_seed{seed}.json"
        if name in (options.teachers or found) and not file.exists():
            yield load_subject(), file


def main() -> None:
    options = arguments()
    options.results.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in options.data)
    for seed in options.seeds:
        for subject, file in subjects(options, places, seed):
            record(subject, seed, file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="holds the published checkpoints")
    parser.add_argument("--triggers", type=Path, help="holds the pictures of their triggers")
    parser.add_argument("--teachers", nargs="+", metavar="NAME", help="measures these alone")
    parser.add_argument("--zoo", type=Path, help="holds teachers of zoo/build.py")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher and seed")
    parser.add_argument("--limit", type=int, default=4000, help="test images that measure a copy")
    return parser.parse_args()


def record(subject: Subject, seed: int, file: Path) -> None:
    """Purifies one teacher, and writes the file in one step."""
    device = Accelerator().device
    teacher = subject.teacher.to(device)
    began, spent = time.perf_counter(), time.process_time()
    copy, report = purify_model(teacher, force=not subject.poisoned, seed=seed)
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    facts = {
        "teacher": subject.name,
        "architecture": teacher.ref.architecture,
        "sha256": teacher.ref.sha256,
        "attack": subject.attack,
        "poisoned": subject.poisoned,
        "target": subject.target,
        "seed": seed,
        "before": subject.measure(teacher),
        "after": subject.measure(copy),
        "seconds": round(seconds, 1),
        "processor_seconds": round(spent, 1),
        "device": name_of(device),
        "torch": torch.__version__,
        "report": report.to_json(),
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(file)
    print(f"{subject.name}, seed {seed}: {facts['before']} {facts['after']}; {report.detail}", flush=True)


if __name__ == "__main__":
    main()
