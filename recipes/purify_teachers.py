"""Inspect and purify the published teachers of CIFAR-10 and GTSRB, and measure the copies.

    python recipes/purify_teachers.py FOLDER --data cifar10=DATA gtsrb=DATA --triggers PICTURES \
        --seeds 0 1 2 --results recipes/results/purification

FOLDER holds their checkpoints, see published_teachers.py, and PICTURES the triggers that came with them. A
clean teacher is purified by force, and its control is the trigger of resnet20_grey5_0. Test images measure
the copies, and no step of the purification sees them. One JSON file is written for each teacher and seed,
and one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from published_teachers import TARGETS, load
from torch import Tensor

from abd_hub import Classifier, InputError, load_images, purify_model

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
        return lambda pixels: (pixels + mark).clamp(0, 1)
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
    pixels[:, :, 24:29, 24:29] = patch[:, 24:29, 24:29] if patch.shape[-1] == 32 else patch
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


@torch.no_grad()
def rates(model: Classifier, images: Tensor, labels: Tensor, attack: Callable, target: int) -> dict:
    """Accuracy, and the share of images of other classes that the attack turns into the target."""
    right = hits = others = 0
    for some, true in zip(images.split(500), labels.split(500), strict=True):
        pixels = some.float() / 255
        right += int((model(pixels).argmax(1) == true).sum())
        other = true != target
        hits += int((model(attack(pixels[other])).argmax(1) == target).sum())
        others += int(other.sum())
    return {"accuracy": right / len(images), "asr": hits / others, "images": len(images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the checkpoints")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--triggers", type=Path, required=True, help="holds the pictures of the triggers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher and seed")
    parser.add_argument("--teachers", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--limit", type=int, default=4000, help="test images that measure a copy")
    options = parser.parse_args()

    options.results.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in options.data)
    for seed in options.seeds:
        for name in options.teachers:
            file = options.results / f"{name}_seed{seed}.json"
            if not file.exists():
                measure(options, places, name, seed, file)


def measure(options: argparse.Namespace, places: dict[str, str], name: str, seed: int, file: Path) -> None:
    """Purifies one teacher, and writes the file in one step."""
    try:
        teacher = load(options.folder, name)
    except InputError as error:
        print(f"{name}: left out, {error}", flush=True)
        return
    data = load_images(places["gtsrb" if name.startswith("gtsrb") else "cifar10"], "test")
    chosen = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))[: options.limit]
    target = CONTROL[1] if TARGETS[name] is None else TARGETS[name]
    test = (data.images[chosen], data.labels[chosen], trigger_of(name, options.triggers), target)

    began = time.process_time()
    copy, report = purify_model(teacher, force=TARGETS[name] is None, seed=seed)
    spent = time.process_time() - began
    facts = {
        "teacher": name,
        "sha256": teacher.ref.sha256,
        "target": TARGETS[name],
        "seed": seed,
        "before": rates(teacher, *test),
        "after": rates(copy, *test),
        "processor_seconds": round(spent, 1),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "report": report.to_json(),
    }
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(file)
    print(f"{name}, seed {seed}: {facts['before']} {facts['after']}; {report.detail}", flush=True)


if __name__ == "__main__":
    main()
