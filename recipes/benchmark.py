"""What a round costs here and in the loop as published, on the same networks with the same steps.

Both sides take turns in one process; the figures are medians of the turns, with the lowest and the highest.
The published loops (``textbook_loops.py``) run in float32; ours in float32 and in bf16, of which the faster
is the row without a precision in its name. A round is that of the paper: one generator step and ten student
steps for ZSKT, 200 and 400 for CMI. ``zskt+sv+sr`` is a round in which self-retrospection is at work, as in
the last 600 of 80,000, against the teacher as in the published sweeps, ``zskt+sv+sr-student`` one against the
student as in the paper; ``whole_run`` weighs both kinds of rounds as that schedule does. Of CMI's round and
of the textbook's student steps with retrospection, which are all alike, a few are timed and the sum is scaled
to the whole round.

Peak memory is what a fresh process needs beyond what it held before the loop. FLOPs are those of convolutions
and products of matrices, counted; their share is of the faster of a large product and a large convolution on
the same device in the same precision.

    python recipes/benchmark.py [--device cpu] [--only zskt+sv cmi] [--turns 3] [--scaling] [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.state import AcceleratorState
from textbook_loops import Crop, TextbookCmi, TextbookZskt, shuffled_copies, textbook_generator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from abd_hub import (
    Classifier,
    Cmi,
    DataSpec,
    InputError,
    SelfRetrospection,
    ShufflingVaccine,
    Trainer,
    TrainerOptions,
    Zskt,
    create_student,
)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NAMES = ("zskt", "zskt+sv", "zskt+sv+sr", "zskt+sv+sr-student", "cmi")
PRECISIONS = {"float32": "no", "bf16": "bf16"}
RETROSPECTIVE_SHARE = 600 / 80_000
"""Rounds with retrospection in the paper's run of ZSKT."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What is distilled into what, and in which portions."""

    teacher: str = "wrn_16_2"
    """timm name; of random weights."""
    student: str = "wrn_16_1"
    """Likewise."""
    batch_size: int = 128
    """Images of a student step."""
    synthesis_batch_size: int = 256
    """Images of a step of CMI's generator."""
    student_steps: int = 10
    """Of a round of ZSKT."""
    classes: int = 10
    """Logits."""
    image_size: int = 32
    """Height and width."""
    copies: int = 3
    """Shuffled teachers."""
    retrospective_steps: int = 1
    """Student steps of the textbook's round with retrospection that are timed."""
    cmi_generator_steps: int = 3
    """Steps of CMI's generator that are timed, of 200."""
    cmi_student_steps: int = 12
    """Student steps of CMI that are timed, of 400."""
    negatives: int = 4_096
    """Embeddings in CMI's memory when a round begins, all of which are negatives."""
    workers: int = 2
    """Of the textbook's DataLoader."""
    dynamo_backend: str = "no"
    """Of torch.compile in our student steps."""

    @property
    def spec(self) -> DataSpec:
        labels = tuple(str(index) for index in range(self.classes))
        return DataSpec(3, self.image_size, self.image_size, labels)

    def networks(self) -> tuple[Classifier, Classifier]:
        """Teacher and student."""
        device = PartialState().device
        made = [
            create_student(name, self.spec, MEAN, STD, seed=seed).to(device)
            for seed, name in enumerate((self.teacher, self.student))
        ]
        return made[0].freeze(), made[1]


@dataclasses.dataclass
class Spent:
    """Seconds of a whole round, and what they are made of."""

    seconds: float
    """Of the clock."""
    processor_seconds: float
    """Of all cores, child processes included."""
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of a step, by kind."""

    def __add__(self, other: Spent) -> Spent:
        total = Spent(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)
        return dataclasses.replace(total, parts=self.parts | other.parts)

    def times(self, factor: float) -> Spent:
        return Spent(self.seconds * factor, self.processor_seconds * factor, self.parts)


def timed(action: Callable[[], Any]) -> Spent:
    synchronize()
    began, processor_began = time.perf_counter(), sum(os.times()[:4])
    action()
    synchronize()
    return Spent(time.perf_counter() - began, sum(os.times()[:4]) - processor_began)


def synchronize() -> None:
    if PartialState().device.type != "cpu":
        torch.accelerator.synchronize()


# --- the sides --------------------------------------------------------------------------------------


class Side:
    """One loop of one method; ``size.networks`` are its own."""

    def __init__(self, name: str, size: Size) -> None:
        self.name, self.size = name, size
        self.device = PartialState().device
        self.teacher, self.student = size.networks()

    def turn(self) -> Spent:
        """A round."""
        raise NotImplementedError

    def operations(self) -> float:
        """FLOPs of a round."""
        raise NotImplementedError


def counted(action: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


class ZsktTextbook(Side):
    """The published ZSKT with what the name adds to it."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.index = int("+sr" in name)
        self.method = zskt(size)
        options: dict[str, Any] = {}
        if "+sv" in name:
            vaccine = vaccine_of(size)
            shuffled = vaccine.build(self.teacher).shuffled
            permutations = zip(shuffled.layers, shuffled.permutations(0, 0), strict=True)
            copies = shuffled_copies(self.teacher, {layer.name: drawn for layer, drawn in permutations})
            options |= {"vaccine": vaccine, "copies": copies}
        if "+sr" in name:
            options |= {"retrospection": retrospection(name), "start": self.start}
        generator = textbook_generator(self.method.z_dim, 128, size.image_size, nn.BatchNorm2d(3))
        self.loop = TextbookZskt(
            self.teacher, self.student, generator.to(self.device), self.method, self.noise, **options
        )

    def noise(self, index: int) -> Tensor:
        return torch.randn(self.size.batch_size, self.method.z_dim).to(self.device)

    def start(self, index: int) -> Tensor:
        return torch.randn(1, 3, self.size.image_size, self.size.image_size).to(self.device)

    def turn(self) -> Spent:
        generator_step = timed(self.generator_step)
        count = self.size.retrospective_steps if self.index else self.size.student_steps
        steps = timed(lambda: self.student_steps(count)).times(1 / count)
        return generator_step + steps.times(self.size.student_steps)

    def generator_step(self) -> None:
        self.z = self.noise(0)
        self.loop.generator_step(self.z)

    def student_steps(self, count: int) -> None:
        active = self.loop.begin(self.index)
        for _ in range(count):
            self.loop.student_step(self.z, active, 0)

    def operations(self) -> float:
        step = counted(self.generator_step), counted(lambda: self.student_steps(1))
        return step[0] + self.size.student_steps * step[1]


class ZsktOurs(Side):
    """The same on ``Trainer``."""

    def __init__(self, name: str, size: Size, precision: str) -> None:
        super().__init__(name, size)
        defenses: list[Any] = []
        if "+sv" in name:
            defenses.append(vaccine_of(size).build(self.teacher))
        if "+sr" in name:
            defenses.append(retrospection(name).build(self.teacher))
        self.trainer = trainer(self.teacher, self.student, zskt(size), defenses, precision, size)
        self.index = int("+sr" in name)

    def turn(self) -> Spent:
        return timed(self.round)

    def round(self) -> None:
        self.trainer._round(self.index)  # the rounds that ``fit`` goes through, one at a time

    def operations(self) -> float:
        return counted(self.round)


def zskt(size: Size) -> Zskt:
    return Zskt(rounds=2, batch_size=size.batch_size, student_steps=size.student_steps)


def vaccine_of(size: Size) -> ShufflingVaccine:
    return ShufflingVaccine(check=False, copies=size.copies)


def retrospection(name: str) -> SelfRetrospection:
    return SelfRetrospection(last_rounds=1, source="student" if name.endswith("-student") else "teacher")


def trainer(
    teacher: Classifier, student: Classifier, method: Any, defenses: list[Any], precision: str, size: Size
) -> Trainer:
    AcceleratorState._reset_state()  # accelerate takes one precision a process
    options = TrainerOptions(
        mixed_precision=PRECISIONS[precision],
        dynamo_backend=size.dynamo_backend,
        progress=False,
        checkpoint_every=0,
    )
    made = Trainer(teacher, student, method, defenses, options)
    student.train()
    return made


def cmi(size: Size) -> Cmi:
    return Cmi(
        rounds=1,
        generator_steps=size.cmi_generator_steps,
        student_steps=size.cmi_student_steps,
        batch_size=size.batch_size,
        synthesis_batch_size=size.synthesis_batch_size,
        negatives=size.negatives,
    )


def round_of_cmi(synthesis: Spent, once: Spent, distillation: Spent, size: Size) -> Spent:
    """Of the paper's 200 and 400 steps."""
    a_step = synthesis.times(1 / size.cmi_generator_steps), distillation.times(1 / size.cmi_student_steps)
    parts = {"synthesis_step": a_step[0].seconds, "student_step": a_step[1].seconds, "once": once.seconds}
    whole = a_step[0].times(Cmi.generator_steps) + once + a_step[1].times(Cmi.student_steps)
    return dataclasses.replace(whole, parts=parts)


class CmiTextbook(Side):
    """The published CMI."""

    def __init__(self, name: str, size: Size) -> None:
        super().__init__(name, size)
        self.method = cmi(size)
        layers = [layer for layer in self.teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        width = sum(layer.num_features for layer in layers)
        head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.method.embedding_dim)
        ).to(self.device)
        self.folder = tempfile.TemporaryDirectory()
        self.loop = TextbookCmi(
            self.teacher,
            self.student,
            head,
            self.method,
            self,
            Path(self.folder.name),
            size.workers,
            tuple(torch.rand(2, size.negatives, width)),
        )

    def generator(self, index: int) -> tuple[nn.Module, Tensor]:
        method = self.method
        generator = textbook_generator(method.z_dim, 128, self.size.image_size, nn.Sigmoid())
        for layer in generator.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)
        noise = torch.randn(method.synthesis_batch_size, method.z_dim).to(self.device)
        return generator.to(self.device), noise.requires_grad_()

    def classes(self, index: int) -> Tensor:
        return torch.randint(self.size.classes, (self.size.synthesis_batch_size,)).to(self.device)

    def views(self, index: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A padded crop, and a resized box of a quarter of the area or more."""
        n = len(pixels)
        whole = box(pixels, torch.ones(n, 2), torch.randint(-4, 5, (n, 2)) / 16, "zeros")
        side = (0.25 + 0.75 * torch.rand(n, 1)).sqrt().expand(n, 2)
        local = box(pixels, side, (2 * torch.rand(n, 2) - 1) * (1 - side), "border")
        return whole, local

    def negatives(self, index: int, step: int, count: int) -> Tensor:
        return torch.randperm(count)[: self.method.negatives]

    def crops(self, index: int, count: int) -> Iterator[list[Crop]]:
        # As many draws as the paper's full folder gives: its 51,200 images are the 400 batches of a round.
        n = self.method.batch_size
        for _ in range(self.method.student_steps):
            drawn = torch.randint(count, (n,)), *torch.randint(9, (2, n)), torch.rand(n) < 0.5
            yield list(zip(*[row.tolist() for row in drawn], strict=True))

    def turn(self) -> Spent:
        synthesis = timed(lambda: self.loop.synthesize(0))
        opening = timed(self.open)
        distillation = timed(lambda: self.loop.distill(0, self.batches))
        return round_of_cmi(synthesis, opening, distillation, self.size)

    def open(self) -> None:
        self.batches = self.loop.batches(0)

    def operations(self) -> float:
        loop = self.loop
        synthesis = counted(lambda: loop.synthesize(0)) / self.size.cmi_generator_steps
        images = torch.rand(self.size.batch_size, 3, self.size.image_size, self.size.image_size)
        distillation = counted(lambda: loop.distill(0, [images]))
        return synthesis * Cmi.generator_steps + distillation * Cmi.student_steps


def box(pixels: Tensor, size: Tensor, center: Tensor, outside: str) -> Tensor:
    """A box of each image as a whole image, half of them mirrored; size and center are (N, 2)."""
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = size[:, 0] * (torch.randint(2, (len(pixels),)) * 2 - 1)
    theta[:, 1, 1] = size[:, 1]
    theta[:, :, 2] = center
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)


class CmiOurs(Side):
    """The same on ``Trainer``."""

    def __init__(self, name: str, size: Size, precision: str) -> None:
        super().__init__(name, size)
        self.trainer = trainer(self.teacher, self.student, cmi(size), [], precision, size)
        synthesizer = self.trainer.synthesizer
        synthesizer.features.add(
            *torch.rand(2, size.negatives, synthesizer.statistics.width, device=self.device)
        )
        self.update, synthesizer.update = synthesizer.update, self.timed_update

    def timed_update(self, *arguments: Any) -> dict[str, Tensor]:
        figures: dict[str, Tensor] = {}
        self.synthesis = timed(lambda: figures.update(self.update(*arguments)))
        return figures

    def turn(self) -> Spent:
        whole = timed(lambda: self.trainer._round(0))
        distillation = whole + self.synthesis.times(-1)
        return round_of_cmi(self.synthesis, Spent(0.0, 0.0), distillation, self.size)

    def operations(self) -> float:
        whole = counted(lambda: self.trainer._round(0))
        student = counted(lambda: self.trainer._student_step(self.trainer._batch(self.images())))
        synthesis = (whole - self.size.cmi_student_steps * student) / self.size.cmi_generator_steps
        return synthesis * Cmi.generator_steps + student * Cmi.student_steps

    def images(self) -> Tensor:
        return self.trainer.synthesizer.sample(0)


def side(name: str, size: Size, precision: str | None) -> Side:
    """Ours in a precision, or the textbook's."""
    if precision is None:
        return CmiTextbook(name, size) if name == "cmi" else ZsktTextbook(name, size)
    return CmiOurs(name, size, precision) if name == "cmi" else ZsktOurs(name, size, precision)


# --- measuring --------------------------------------------------------------------------------------


def compared(name: str, size: Size, precisions: list[str], turns: int, peaks: dict[str, float]) -> list[dict]:
    """One row for each precision of ours; all sides take turns."""
    torch.manual_seed(0)
    sides: dict[str | None, Side] = {one: side(name, size, one) for one in (None, *precisions)}
    spent: dict[str | None, list[Spent]] = {one: [] for one in sides}
    for turn in range(turns + 1):
        for one, loop in sides.items():
            took = loop.turn()
            if turn:  # the first chooses kernels
                spent[one].append(took)
    operations = {one: loop.operations() for one, loop in sides.items()}
    del sides
    memory = {one: peak_memory(name, size, one) for one in spent}
    rows = [
        row(name, size, one, {kind: spent[key] for kind, key in (("textbook", None), ("ours", one))})
        | costs("textbook", None, spent, operations, memory, peaks["float32"])
        | costs("ours", one, spent, operations, memory, peaks[one])
        for one in precisions
    ]
    fastest_of(rows)["name"] = name
    return rows


def fastest_of(rows: list[dict]) -> dict:
    return min(rows, key=lambda row: row["ours_s"])


def row(name: str, size: Size, precision: str, spent: dict[str, list[Spent]]) -> dict[str, Any]:
    medians = {kind: statistics.median(turn.seconds for turn in turns) for kind, turns in spent.items()}
    steps = Cmi.student_steps if name == "cmi" else size.student_steps
    found: dict[str, Any] = {
        "name": f"{name}, {precision}",
        "method": name,
        "precision": precision,
        "textbook_s": rounded(medians["textbook"]),
        "ours_s": rounded(medians["ours"]),
        "ratio": rounded(medians["textbook"] / medians["ours"]),
        "student_steps": steps,
        "batch_size": size.batch_size,
    }
    for kind, turns in spent.items():
        found[f"{kind}_turns_s"] = [rounded(turn.seconds) for turn in turns]
        found[f"{kind}_processor_s"] = rounded(statistics.median(turn.processor_seconds for turn in turns))
        found[f"{kind}_steps_per_second"] = rounded(steps / medians[kind])
        found[f"{kind}_images_per_second"] = rounded(steps * size.batch_size / medians[kind])
        names = turns[0].parts
        found[f"{kind}_parts_s"] = {
            part: rounded(statistics.median(turn.parts[part] for turn in turns)) for part in names
        }
    return found


def costs(
    kind: str,
    key: str | None,
    spent: dict[str | None, list[Spent]],
    operations: dict[str | None, float],
    memory: dict[str | None, float],
    peak: float,
) -> dict[str, float]:
    seconds = statistics.median(turn.seconds for turn in spent[key])
    return {
        f"{kind}_gflop": rounded(operations[key] / 1e9),
        f"{kind}_share_of_peak": rounded(operations[key] / seconds / peak),
        f"{kind}_peak_mb": round(memory[key] / 1e6),
    }


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def whole_run(rows: list[dict]) -> list[dict]:
    """Rounds of the paper's run of ZSKT with both defenses, in the mean over all 80,000."""
    found = []
    for late in rows:
        early = [row for row in rows if row["method"] == "zskt+sv" and row["precision"] == late["precision"]]
        if late["method"] != "zskt+sv+sr" or not early:
            continue
        seconds = {
            f"{kind}_s": rounded(
                RETROSPECTIVE_SHARE * late[f"{kind}_s"] + (1 - RETROSPECTIVE_SHARE) * early[0][f"{kind}_s"]
            )
            for kind in ("textbook", "ours")
        }
        ratio = rounded(seconds["textbook_s"] / seconds["ours_s"])
        found.append({"precision": late["precision"], **seconds, "ratio": ratio})
    return found


def measured_peaks(precisions: list[str]) -> dict[str, float]:
    """FLOPs a second of the faster of a product of matrices and a convolution, for each precision."""
    device = PartialState().device
    found = {}
    for precision in precisions:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        matrix = torch.rand(2048, 2048, device=device, dtype=dtype)
        maps = torch.rand(64, 128, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        kernel = torch.rand(128, 128, 3, 3, device=device, dtype=dtype)
        kernel = kernel.to(memory_format=torch.channels_last)
        product = 2 * 2048**3 / fastest(lambda matrix=matrix: matrix @ matrix)
        convolution = (
            2
            * maps.numel()
            * 128
            * 9
            / fastest(lambda maps=maps, kernel=kernel: F.conv2d(maps, kernel, padding=1))
        )
        found[precision] = max(product, convolution)
    return found


def fastest(action: Callable[[], Any]) -> float:
    return min(timed(action).seconds for _ in range(5))


# --- memory -----------------------------------------------------------------------------------------


def peak_memory(name: str, size: Size, precision: str | None) -> float:
    """Bytes, measured by a fresh process."""
    task = json.dumps({"name": name, "size": dataclasses.asdict(size), "precision": precision})
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", task], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def print_peak_memory(task: str) -> None:
    """What two rounds of two student steps need beyond what was there before; further steps need no more."""
    settings = json.loads(task)
    size = dataclasses.replace(
        Size(**settings["size"]),
        student_steps=2,
        retrospective_steps=2,
        cmi_generator_steps=2,
        cmi_student_steps=2,
    )
    loop = side(settings["name"], size, settings["precision"])
    before = reset_peak()
    for _ in range(2):
        loop.turn()
    print(peak() - before)


CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak() -> int:
    """Bytes held now, from which on the peak counts."""
    if PartialState().device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
        return torch.accelerator.memory_allocated()
    if not CLEAR_REFS.exists():
        return peak()
    # ru_maxrss begins with what the parent process held; Linux can start the peak anew.
    CLEAR_REFS.write_text("5")
    return peak()


def peak() -> int:
    if PartialState().device.type != "cpu":
        return torch.accelerator.max_memory_allocated()
    if not CLEAR_REFS.exists():
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


# --- scaling ----------------------------------------------------------------------------------------


SCALING: dict[str, tuple[int, ...]] = {
    "batch_size": (32, 64, 128, 256),
    "classes": (10, 100, 1000),
    "image_size": (32, 64),
    "copies": (1, 3, 6, 12),
}


def scaling(size: Size, turns: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of a round of zskt+sv in float32, one thing changed at a time."""
    found: dict[str, list[dict[str, float]]] = {}
    for field, values in SCALING.items():
        found[field] = []
        for value in values:
            changed = dataclasses.replace(size, **{field: value})
            found[field].append({"value": value, **one_comparison(changed, 1, turns)})
    found["rounds"] = [{"value": count, **one_comparison(size, count, turns)} for count in (1, 2, 4)]
    return found


def one_comparison(size: Size, rounds: int, turns: int) -> dict[str, float]:
    sides = {"textbook": side("zskt+sv", size, None), "ours": side("zskt+sv", size, "float32")}
    seconds: dict[str, list[float]] = {kind: [] for kind in sides}
    for turn in range(turns + 1):
        for kind, loop in sides.items():
            took = sum(loop.turn().seconds for _ in range(rounds if turn else 1))
            if turn:
                seconds[kind].append(took)
    medians = {kind: statistics.median(found) for kind, found in seconds.items()}
    ratio = rounded(medians["textbook"] / medians["ours"])
    return {f"{kind}_s": rounded(value) for kind, value in medians.items()} | {"ratio": ratio}


# --- command line -----------------------------------------------------------------------------------


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="auto: accelerate's choice")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--only", nargs="+", default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--turns", type=int, default=3, help="of each side, after one to warm up")
    parser.add_argument("--scaling", action="store_true", help="also cost against sizes")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    for field in dataclasses.fields(Size):
        kind = str if isinstance(field.default, str) else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured, before any work.

    Raises:
        InputError: naming the option.
    """
    unknown = [name for name in options.only if name not in NAMES]
    if unknown:
        raise InputError(f"--only: no method is named {unknown[0]!r}; use {', '.join(NAMES)}")
    if options.turns < 1:
        raise InputError(f"--turns: must be at least 1, got {options.turns}")
    if options.output and not options.output.parent.is_dir():
        raise InputError(f"--output: there is no folder {options.output.parent}; create it first")


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if options.peak_of:
        print_peak_memory(options.peak_of)
        return 0
    try:
        check(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report(options)
    return 0


def report(options: argparse.Namespace) -> None:
    size = Size(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Size)})
    began = time.perf_counter()
    peaks = measured_peaks(list(PRECISIONS))
    rows = []
    for name in options.only:
        for found in compared(name, size, options.precisions, options.turns, peaks):
            rows.append(found)
            print(line(found), flush=True)
    facts = {
        "device": str(PartialState().device),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "turns": options.turns,
        "size": dataclasses.asdict(size),
        "peak_gflops": {precision: rounded(peak / 1e9) for precision, peak in peaks.items()},
        "results": rows,
        "whole_run": whole_run(rows),
    }
    if options.scaling:
        facts["scaling"] = scaling(size, options.turns)
        for field, found in facts["scaling"].items():
            print(field, *[f"{one['value']}: {one['ours_s']} s (x{one['ratio']})" for one in found], sep="  ")
    facts["minutes"] = rounded((time.perf_counter() - began) / 60)
    if options.output:
        beside = options.output.with_name(options.output.name + ".part")
        beside.write_text(json.dumps(facts, indent=2) + "\n")
        beside.replace(options.output)


def line(found: dict[str, Any]) -> str:
    cells = [f"{found['name']:18}"]
    for kind in ("textbook", "ours"):
        turns = found[f"{kind}_turns_s"]
        cells.append(
            f"{kind} {found[f'{kind}_s']:8.4g} s ({min(turns):.4g} to {max(turns):.4g}) "
            f"{found[f'{kind}_peak_mb']:5d} MB {found[f'{kind}_share_of_peak']:4.0%} of peak"
        )
    return "  ".join([*cells, f"x{found['ratio']:.2f}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
