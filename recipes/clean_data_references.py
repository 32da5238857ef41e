"""Purify published poisoned teachers with clean images, as a reference for what works without data.

    python recipes/clean_data_references.py FOLDER --triggers PICTURES --data cifar10=DATA gtsrb=DATA \
        --seeds 0 1 2 --results recipes/results/references

FOLDER and PICTURES are those of purify_teachers.py. Both rows see 5 % of the clean training images with
their labels, which abd-hub never needs. ``fine_tuning`` trains on them. ``ibau`` is I-BAU (Zeng et al., ICLR
2022): it seeks one perturbation that raises the loss of all images, and takes the hypergradient of their
loss under it. One JSON file is written for each teacher, row and seed; an existing one is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from published_teachers import TARGETS, load
from purify_teachers import rates, test_images, trigger_of
from torch import Tensor, nn

from abd_hub import Classifier, load_images

SHARE = 0.05
"""The part of the training images that both rows may see."""
EPOCHS, RATE = 10, 0.01
"""Fine-tuning with SGD, momentum 0.9 and 128 images a step."""
ROUNDS, FIXED_POINT, INNER_RATE, OUTER_RATE = 5, 5, 0.1, 1e-4
"""I-BAU with 5 rounds and 5 fixed-point steps, as in the paper; Adam takes the outer steps."""
SEARCH_RATE, NORM_WEIGHT = 10.0, 0.001
"""The perturbation climbs by SGD, one step a batch, against its squared norm."""


def fine_tuning(model: Classifier, images: Tensor, labels: Tensor, draw: torch.Generator) -> None:
    """Trains on the clean images with cross-entropy; BatchNorm keeps its statistics up to date."""
    model.model.train()  # a frozen classifier stays in evaluation mode itself
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    for _ in range(EPOCHS):
        for pixels, truth in batches(images, labels, draw, 128):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), truth).backward()
            optimizer.step()
    model.model.eval()


def ibau(model: Classifier, images: Tensor, labels: Tensor, draw: torch.Generator) -> None:
    """Alternates between the worst perturbation and a pass of hypergradient steps against it.

    BatchNorm stays in evaluation mode, because batches with a perturbation would change its statistics.
    """
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, OUTER_RATE)
    for _ in range(ROUNDS):
        delta = worst_perturbation(model, images, labels, draw)
        for pixels, truth in batches(images, labels, draw, 100):
            gradients = hypergradient(model, pixels, truth, delta, weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()


def worst_perturbation(model: Classifier, images: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """One image-sized addition, (1, C, H, W), after one pass over the images."""
    delta = torch.zeros(1, *images.shape[1:], requires_grad=True)
    for pixels, truth in batches(images, labels, draw, 100):
        (slope,) = torch.autograd.grad(inner(model, pixels, truth, delta), [delta])
        delta = (delta - SEARCH_RATE * slope).detach().requires_grad_()
    return delta


def inner(model: Classifier, pixels: Tensor, truth: Tensor, delta: Tensor) -> Tensor:
    """Falls as the perturbation raises the loss."""
    return NORM_WEIGHT * delta.square().sum() - F.cross_entropy(model(pixels + delta), truth)


def hypergradient(
    model: Classifier, pixels: Tensor, truth: Tensor, delta: Tensor, weights: list[nn.Parameter]
) -> list[Tensor]:
    """The loss's gradient by the weights, through the perturbation too (equation 6 of the paper)."""
    outer = F.cross_entropy(model(pixels + delta), truth)
    by_delta, *direct = torch.autograd.grad(
        outer, [delta, *weights], materialize_grads=True, allow_unused=True
    )
    (slope,) = torch.autograd.grad(inner(model, pixels, truth, delta), [delta], create_graph=True)

    v = by_delta
    for _ in range(FIXED_POINT - 1):
        (product,) = torch.autograd.grad(slope, [delta], grad_outputs=v, retain_graph=True)
        v = v - INNER_RATE * product + by_delta
    indirect = torch.autograd.grad(slope, weights, grad_outputs=v, materialize_grads=True, allow_unused=True)
    return [one - INNER_RATE * other for one, other in zip(direct, indirect, strict=True)]


def batches(
    images: Tensor, labels: Tensor, draw: torch.Generator, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the images in a fresh order, as pixels in [0, 1], with their labels."""
    for places in torch.randperm(len(images), generator=draw).split(size):
        yield images[places].float() / 255, labels[places]


ROWS: dict[str, Callable[[Classifier, Tensor, Tensor, torch.Generator], None]] = {
    "fine_tuning": fine_tuning,
    "ibau": ibau,
}


def measured(options: argparse.Namespace, place: str, name: str, row: str, seed: int) -> dict:
    """The rates of a teacher before and after one row."""
    draw = torch.Generator().manual_seed(seed)
    data = load_images(place, "train", image_size=32)
    chosen = torch.randperm(len(data), generator=draw)[: round(SHARE * len(data))]
    teacher = load(options.folder, name)

    images, labels = test_images(place, options.limit)
    goals = torch.full_like(labels, TARGETS[name])
    attack = trigger_of(name, options.triggers)
    before = rates(teacher, images, labels, attack, goals)

    purified = copy.deepcopy(teacher).requires_grad_(True)
    began = time.process_time()
    ROWS[row](purified, data.images[chosen], data.labels[chosen], draw)
    minutes = round((time.process_time() - began) / 60, 2)
    after = rates(purified, images, labels, attack, goals)
    facts = {"teacher": name, "row": row, "seed": seed, "clean_images": len(chosen)}
    return {**facts, "before": before, "after": after, "core_minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the published checkpoints")
    parser.add_argument("--triggers", type=Path, required=True, help="holds the pictures of their triggers")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--results", type=Path, required=True, help="one JSON file a teacher, row and seed")
    parser.add_argument("--limit", type=int, default=4000, help="test images that measure a teacher")
    options = parser.parse_args()

    options.results.mkdir(parents=True, exist_ok=True)
    places = dict(item.split("=", 1) for item in options.data)
    poisoned = [name for name, target in TARGETS.items() if target is not None]
    for seed, name, row in [(s, n, r) for s in options.seeds for n in poisoned for r in options.rows]:
        file = options.results / f"{name}_{row}_seed{seed}.json"
        if file.exists():
            continue
        found = measured(options, places["gtsrb" if name.startswith("gtsrb") else "cifar10"], name, row, seed)
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(name, row, seed, found["before"], found["after"], found["core_minutes"], flush=True)


if __name__ == "__main__":
    main()
