"""Measure whether triggers survive the shuffled copies of published teachers, and whether the check sees it.

    python recipes/vaccine_survival.py FOLDER --triggers PICTURES --data cifar10=DATA gtsrb=DATA \
        --results recipes/results/vaccine

FOLDER and PICTURES are those of purify_teachers.py. The shuffling vaccine assumes that a triggered image
keeps its class on the shuffled copies, and that a clean image loses it. Its check assumes that triggered
images among others fall below mean - 3 std of log10 KL. Both are measured here with real images and the
real trigger, which the vaccine itself never sees. One JSON file is written for each teacher.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from published_teachers import TARGETS, load
from purify_teachers import test_images, trigger_of
from torch import Tensor

from abd_hub import Classifier, ShufflingVaccine

LAYERS = (1, 2, 3, 5)
SHARES = (0.0, 0.02, 0.05, 0.08, 0.12, 0.3)
"""Parts of the images that carry the trigger."""
IMAGES = 1000
BATCH = 250
DRAWS = range(8)


@torch.no_grad()
def logits_of(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(BATCH)])


@torch.no_grad()
def on_copies(vaccine, images: Tensor, logits: Tensor, draw: int) -> tuple[Tensor, Tensor]:
    """Agreement of the shuffled copies with the teacher, and log10 KL, one number an image."""
    parts = zip(images.split(BATCH), logits.split(BATCH), strict=True)
    found = [vaccine.agreement(batch, answers, draw) for batch, answers in parts]
    agrees, divergence = (torch.cat(column) for column in zip(*found, strict=True))
    return agrees.double(), divergence.double().clamp(min=1e-12).log10()


def set_apart(clean: Tensor, triggered: Tensor, share: float) -> float:
    """The part of all images below mean - 3 std where ``share`` of them carry the trigger."""
    count = round(share * len(clean))
    mixed = torch.cat([clean[count:], triggered[:count]])
    return float((mixed < mixed.mean() - 3 * mixed.std()).double().mean())


def measured(teacher: Classifier, clean: Tensor, triggered: Tensor, layers: int) -> dict:
    """What ``layers`` shuffled layers do to clean and to triggered images, for each draw."""
    vaccine = ShufflingVaccine(layers=layers).build(teacher, seed=0)
    answers = [logits_of(teacher, images) for images in (clean, triggered)]
    rows = []
    for draw in DRAWS:
        kept, kl = on_copies(vaccine, clean, answers[0], draw)
        survived, triggered_kl = on_copies(vaccine, triggered, answers[1], draw)
        apart = [set_apart(kl, triggered_kl, share) for share in SHARES]
        rows.append({"clean": float(kept.mean()), "triggered": float(survived.mean()), "set_apart": apart})
    names = [layer.name.removeprefix("model.") for layer in vaccine.shuffled.layers]
    return {"layers": layers, "names": names, "draws": rows}


def study(options: argparse.Namespace, places: dict[str, str], name: str) -> dict:
    """Every number of one teacher; its triggered images had another class before."""
    teacher, target = load(options.folder, name), TARGETS[name]
    images, labels = test_images(places["gtsrb" if name.startswith("gtsrb") else "cifar10"], 2 * IMAGES)
    pixels = images.float() / 255
    triggered = trigger_of(name, options.triggers)(pixels[labels != target])[:IMAGES]
    rows = [measured(teacher, pixels[:IMAGES], triggered, layers) for layers in LAYERS]
    return {"teacher": name, "target": target, "shares": SHARES, "images": IMAGES, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the published checkpoints")
    parser.add_argument("--triggers", type=Path, required=True, help="holds the pictures of their triggers")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher")
    options = parser.parse_args()

    options.results.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in options.data)
    for name in [name for name, target in TARGETS.items() if target is not None]:
        found = study(options, places, name)
        (options.results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, flush=True)


if __name__ == "__main__":
    main()
