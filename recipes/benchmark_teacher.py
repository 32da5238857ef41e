"""Compares the teacher's training loop with a plain torchvision + DataLoader loop, in images a second.

Both train the same network on the same images with the same augmentation and optimizer. They take turns in
one process; the table shows the median of the turns and their spread.

    python recipes/benchmark_teacher.py DATASET [--network wrn_16_1] [--steps 30] [--turns 5]
        [--mixed-precision bf16] [--output FILE]

The plain loop computes in float32, as such loops do; ours computes in bf16 by default.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from device_name import name_of
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

from abd_hub import (
    Classifier,
    DataSpec,
    ImageData,
    TeacherRecipe,
    TeacherTrainer,
    TrainerOptions,
    create_student,
    load_images,
)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCH = 128
PLAIN = "torchvision + DataLoader"
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


class Pictures(Dataset):
    """Transforms PIL images one by one, as torchvision's data sets do."""

    def __init__(self, data: ImageData) -> None:
        to_picture = ToPILImage()
        self.pictures = [to_picture(image) for image in data.images]
        self.labels = data.labels.tolist()
        self.transform = Compose(
            [RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def plain_loop(data: ImageData, network: Classifier, steps: int, workers: int) -> Callable[[], float]:
    """Returns a turn of the plain loop, in images a second; the workers live on between the turns."""
    device = PartialState().device
    model = network.model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    loader = DataLoader(
        Pictures(data),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def batches() -> Iterator:
        while True:
            yield from loader

    stream = batches()

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            pixels, labels = next(stream)
            loss = F.cross_entropy(model(pixels.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        return steps * BATCH / (time.perf_counter() - began)

    return turn


def our_loop(data: ImageData, network: Classifier, steps: int, precision: str) -> Callable[[], float]:
    """Returns a turn of the loop of this package, in images a second."""
    options = TrainerOptions(mixed_precision=precision, progress=False, checkpoint_every=0)
    images = data.images[: steps * BATCH]

    def turn() -> float:
        recipe = TeacherRecipe(epochs=1, batch_size=BATCH)
        network.requires_grad_(True)
        trainer = TeacherTrainer(network, images, data.labels[: len(images)], recipe, options)
        trainer.fit()
        return trainer.images_per_second

    return turn


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Read CIFAR-10 from this Hub id (uoft-cs/cifar10) or folder.")
    parser.add_argument("--network", default="wrn_16_1")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--mixed-precision", default="bf16", choices=("no", "bf16"), help="Set the precision of ours."
    )
    parser.add_argument("--output", type=Path)
    return parser


def both_loops(data: ImageData, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Returns a turn of each loop by its name, on networks with the same first weights."""
    spec = DataSpec(3, 32, 32, data.names)
    plain, ours = (create_student(options.network, spec, MEAN, STD, seed=0) for _ in range(2))
    ours = ours.to(memory_format=torch.channels_last)
    return {
        PLAIN: plain_loop(data, plain, options.steps, options.workers),
        "ours": our_loop(data, ours, options.steps, options.mixed_precision),
    }


def measured(loops: dict[str, Callable[[], float]], turns: int) -> list[dict]:
    """Returns one row for each loop: median, lowest and highest speed, and the ratio to the plain loop."""
    for loop in loops.values():
        loop()  # warm-up: workers start, kernels are chosen
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            speeds[name].append(loop())

    base = statistics.median(speeds[PLAIN])
    return [
        {
            "name": name,
            "images_per_second": round(statistics.median(found), 1),
            "lowest": round(min(found), 1),
            "highest": round(max(found), 1),
            "ratio": round(statistics.median(found) / base, 2),
        }
        for name, found in speeds.items()
    ]


def facts(options: argparse.Namespace, rows: list[dict]) -> dict:
    """Returns the rows with the settings and the machine that they come from."""
    return {
        "network": options.network,
        "batch_size": BATCH,
        "steps": options.steps,
        "turns": options.turns,
        "workers": options.workers,
        "mixed_precision": options.mixed_precision,
        "threads": torch.get_num_threads(),
        "device": name_of(PartialState().device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "results": rows,
    }


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    data = load_images(options.dataset, "train", limit=options.steps * BATCH)
    if len(data) < options.steps * BATCH:
        parser.error(f"--steps: {options.steps} steps need {options.steps * BATCH} images, not {len(data)}")

    rows = measured(both_loops(data, options), options.turns)
    for row in rows:
        spread = f"{row['lowest']:.0f} to {row['highest']:.0f}"
        print(f"{row['name']:26}{row['images_per_second']:10.0f} images/s ({spread})  x{row['ratio']:.2f}")
    if options.output:
        options.output.write_text(json.dumps(facts(options, rows), indent=2) + "\n")


if __name__ == "__main__":
    main()
