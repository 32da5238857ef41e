"""Steps a second of CMI here against a loop in the usual form of its paper, on the same networks.

The usual form keeps the images as PNG files, reads them with a DataLoader whose workers start anew every
round, keeps the embeddings on the host, computes in float32 and differentiates every network in every step.
Both do the same work: same batches, steps, networks, losses and a memory of 4,096 embeddings. They take turns
of one round each in one process; the table shows medians and spread, and the seconds of a round of the paper,
200 steps of the generator and 400 of the student, where writing the PNG files and starting the workers count
once.

    python recipes/benchmark_cmi.py [--rounds 3] [--generator-steps 4] [--student-steps 16] [--output FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToTensor
from torchvision.transforms.functional import to_pil_image

from abd_hub import Classifier, Cmi, DataSpec, Trainer, TrainerOptions, create_student

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SPEC = DataSpec(3, 32, 32, tuple("0123456789"))
PAPER = {"synthesis": 200, "distillation": 400}
"""Steps of a round."""
EARLIER = 4096
"""Embeddings in the memory when a round begins."""

Turn = Callable[[], dict[str, float]]


class PngFolder(Dataset):
    """Decodes and augments one image at a time."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.png"))
        self.transform = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


class Statistics:
    """What one BatchNorm layer sees, noted in every pass."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        layer.register_forward_hook(self.note)

    def note(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], _output: Tensor) -> None:
        features = inputs[0]
        mean = features.mean([0, 2, 3])
        rows = features.permute(1, 0, 2, 3).contiguous().view(features.shape[1], -1)
        variance = rows.var(1, unbiased=False)
        self.distance = (layer.running_var - variance).norm() + (layer.running_mean - mean).norm()
        self.image_means = features.mean([2, 3])


def plain_generator(z_dim: int, channels: int) -> nn.Module:
    def block(wanted: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, wanted, 3, padding=1)
        return [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(wanted), nn.LeakyReLU(0.2)]

    first = [
        nn.Linear(z_dim, channels * 64),
        nn.Unflatten(1, (channels, 8, 8)),
        nn.BatchNorm2d(channels),
    ]
    last = [nn.Conv2d(channels // 2, 3, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*first, *block(channels), *block(channels // 2), *last)


def box(pixels: Tensor, size: Tensor, centre: Tensor, outside: str) -> Tensor:
    """A box of each image as a whole image, half of them mirrored; size and centre are (N, 2)."""
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = size[:, 0] * (torch.randint(2, (len(pixels),)) * 2 - 1)
    theta[:, 1, 1] = size[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)


def two_views(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """A padded crop, and a resized box of a quarter of the area or more."""
    n = len(pixels)
    whole = box(pixels, torch.ones(n, 2), torch.randint(-4, 5, (n, 2)) / 16, "zeros")
    side = (0.25 + 0.75 * torch.rand(n, 1)).sqrt().expand(n, 2)
    local = box(pixels, side, (2 * torch.rand(n, 2) - 1) * (1 - side), "border")
    return whole, local


def kl(student: Tensor, teacher: Tensor, temperature: float, reduction: str) -> Tensor:
    log_q, p = F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, p, reduction=reduction) * temperature**2


class PlainLoop:
    """CMI as a plain loop writes it."""

    def __init__(self, teacher: Classifier, student: Classifier, method: Cmi, folder: Path, workers: int):
        self.device = PartialState().device
        self.teacher = teacher.to(self.device).requires_grad_(True).eval()
        self.student = student.to(self.device).train()
        self.method, self.folder, self.workers = method, folder, workers
        layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.seen = [Statistics(layer) for layer in layers]
        width = sum(layer.num_features for layer in layers)
        self.memory = torch.rand(EARLIER, 2 * width)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, method.embedding_dim))
        self.head = head.to(self.device)
        self.head_optimizer = torch.optim.Adam(self.head.parameters(), lr=method.generator_learning_rate)
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.generator = plain_generator(method.z_dim, method.generator_channels).to(self.device)

    def turn(self) -> dict[str, float]:
        marks = [time.perf_counter()]
        for part in (self.synthesize, self.save, self.open, self.distill):
            part()
            marks.append(time.perf_counter())
        synthesis, saving, opening, distillation = (b - a for a, b in pairwise(marks))
        return {"synthesis": synthesis, "distillation": distillation, "once": saving + opening}

    def synthesize(self) -> None:
        method = self.method
        noise = torch.randn(method.synthesis_batch_size, method.z_dim, device=self.device, requires_grad=True)
        targets = torch.randint(10, (method.synthesis_batch_size,), device=self.device)
        for layer in self.generator.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)
        optimizer = torch.optim.Adam([*self.generator.parameters(), noise], lr=1e-3, betas=(0.5, 0.999))
        self.student.eval()
        lowest, best = float("inf"), None
        for _ in range(method.generator_steps):
            pixels = self.generator(noise)
            whole, local = two_views(pixels)
            t = self.teacher(whole)
            s = self.student(whole)
            distance = sum(layer.distance for layer in self.seen)
            whole_features = torch.cat([layer.image_means for layer in self.seen], dim=1)
            self.teacher(local)
            local_features = torch.cat([layer.image_means for layer in self.seen], dim=1)
            agree = (s.argmax(1) == t.argmax(1)).float()
            adversarial = -(kl(s, t, 1, "none").sum(1) * agree).mean()
            contrast = self.contrast(local_features, whole_features)
            loss = F.cross_entropy(t, targets) + distance + 0.5 * adversarial + 0.8 * contrast
            if loss.item() < lowest or best is None:
                lowest, best = loss.item(), pixels.detach()
            optimizer.zero_grad()
            self.head_optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.head_optimizer.step()
        self.student.train()
        self.best = best

    def save(self) -> None:
        present = len(list(self.folder.glob("*.png")))
        for place, image in enumerate(self.best.cpu()):
            to_pil_image(image).save(self.folder / f"{present + place}.png")

    def contrast(self, local: Tensor, whole: Tensor) -> Tensor:
        n = len(local)
        chosen = random.sample(range(EARLIER), self.method.negatives)
        earlier_local, earlier_whole = self.memory[chosen].to(self.device).chunk(2, dim=1)
        projected = F.normalize(self.head(torch.cat([local, earlier_local, whole, earlier_whole])), dim=1)
        queries, keys = projected.chunk(2)
        similar = queries @ keys.detach().T / self.method.contrast_temperature
        losses = F.cross_entropy(similar, torch.arange(len(similar), device=self.device), reduction="none")
        return losses[:n].mean() + losses[n:].mean()

    def open(self) -> None:
        images = PngFolder(self.folder)
        # As many draws as the paper's full folder gives: its 51,200 images are the 400 batches of a round.
        drawn = RandomSampler(
            images, replacement=True, num_samples=self.method.student_steps * self.method.batch_size
        )
        loader = DataLoader(images, self.method.batch_size, sampler=drawn, num_workers=self.workers)
        batches = iter(loader)
        self.batches = chain([next(batches)], batches)  # the workers are up when the first is there

    def distill(self) -> None:
        for pixels in self.batches:
            images = pixels.to(self.device)
            with torch.no_grad():
                t = self.teacher(images)
            loss = kl(self.student(images), t, 20, "batchmean")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        loss.item()  # waits for the device


def our_turn(teacher: Classifier, student: Classifier, method: Cmi, precision: str) -> Turn:
    options = TrainerOptions(mixed_precision=precision, progress=False, checkpoint_every=0)

    def turn() -> dict[str, float]:
        AcceleratorState._reset_state()  # accelerate takes one precision a process
        trainer = Trainer(teacher, student, method, [], options)
        synthesizer = trainer.synthesizer
        earlier = torch.rand(2, EARLIER, synthesizer.statistics.width, device=trainer.accelerator.device)
        synthesizer.features.add(*earlier)
        update, spent = synthesizer.update, {}

        def timed(*arguments):
            began = time.perf_counter()
            figures = update(*arguments)
            figures["lowest_loss"].item()  # waits for the device
            spent["synthesis"] = time.perf_counter() - began
            return figures

        synthesizer.update = timed
        began = time.perf_counter()
        trainer.fit()
        next(student.parameters()).sum().item()
        spent["distillation"] = time.perf_counter() - began - spent["synthesis"]
        return {**spent, "once": 0.0}

    return turn


def summary(name: str, turns: list[dict[str, float]], method: Cmi, plain: float | None) -> dict:
    steps = {"synthesis": method.generator_steps, "distillation": method.student_steps}
    row: dict = {"name": name, "turns": []}
    for part, count in steps.items():
        speeds = [count / turn[part] for turn in turns]
        row[part] = {
            "steps_per_second": round(statistics.median(speeds), 4),
            "lowest": round(min(speeds), 4),
            "highest": round(max(speeds), 4),
        }
    for turn in turns:
        of_paper = turn["once"] + sum(turn[part] / count * PAPER[part] for part, count in steps.items())
        row["turns"].append({**{part: round(took, 3) for part, took in turn.items()}, "round": of_paper})
    row["seconds_a_round"] = statistics.median(turn["round"] for turn in row["turns"])
    row["ratio"] = round((plain or row["seconds_a_round"]) / row["seconds_a_round"], 2)
    return row


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="wrn_16_2", help="timm name, of random weights")
    parser.add_argument("--student", default="wrn_16_1")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, after one to warm up")
    parser.add_argument("--generator-steps", type=int, default=4)
    parser.add_argument("--student-steps", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128, help="of the student")
    parser.add_argument("--synthesis-batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    method = Cmi(
        rounds=1,
        generator_steps=options.generator_steps,
        student_steps=options.student_steps,
        batch_size=options.batch_size,
        synthesis_batch_size=options.synthesis_batch_size,
    )
    teacher = create_student(options.teacher, SPEC, MEAN, STD, seed=0)
    student = create_student(options.student, SPEC, MEAN, STD, seed=1)

    def networks() -> tuple[Classifier, Classifier]:
        return copy.deepcopy(teacher), copy.deepcopy(student)

    with tempfile.TemporaryDirectory() as folder:
        loops: dict[str, Turn] = {
            "usual form": PlainLoop(*networks(), method, Path(folder), options.workers).turn,
            "ours, float32": our_turn(*networks(), method, "no"),
            "ours, bf16": our_turn(*networks(), method, "bf16"),
        }
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        for index in range(options.rounds + 1):
            for name, loop in loops.items():
                spent = loop()
                if index:  # the first chooses kernels
                    turns[name].append(spent)
    rows: list[dict] = []
    for name, spent in turns.items():
        rows.append(summary(name, spent, method, rows[0]["seconds_a_round"] if rows else None))
    for row in rows:
        parts = [
            f"{row[part]['steps_per_second']:7.3f} ({row[part]['lowest']:.3f} to {row[part]['highest']:.3f})"
            for part in PAPER
        ]
        print(
            f"{row['name']:15} synthesis {parts[0]} steps/s, distillation {parts[1]} steps/s, "
            f"{row['seconds_a_round']:6.0f} s a round  x{row['ratio']:.2f}"
        )
    if options.output:
        facts = {
            "teacher": options.teacher,
            "student": options.student,
            "synthesis_batch_size": options.synthesis_batch_size,
            "batch_size": options.batch_size,
            "generator_steps": options.generator_steps,
            "student_steps": options.student_steps,
            "workers": options.workers,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "device": str(PartialState().device),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "results": rows,
        }
        options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
