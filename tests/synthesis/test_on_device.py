"""A round of CMI stays on the device: no file, no process, no loader, no image that changes device."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nets
import pytest
import torch
from missing import NO_PROC
from PIL import Image
from torch.profiler import profile, supported_activities
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from abd_hub import Cmi, Trainer, TrainerOptions

IMAGE = (3, 8, 8)
BATCHES = {"student": 5, "generator": 7}
"""Sizes that nothing but a batch of images has."""
PROCESSES = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system")
FILES = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename")


@dataclass
class Seen:
    """What a round did that it should not."""

    files: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    """Images that changed device, by operation."""
    loaders: list[str] = field(default_factory=list)
    bytes: int = 0
    """Read or written by any code of this process, C++ included; 0 where the system does not tell."""


watching: list[Seen] = []


def audit(event, arguments):
    if watching and event in FILES:
        watching[-1].files.append(f"{event} {arguments[0]}")
    if watching and event in PROCESSES:
        watching[-1].processes.append(event)


sys.addaudithook(audit)  # for good: Python has no way to take one away


def is_image(value):
    return isinstance(value, torch.Tensor) and value.ndim == 4 and tuple(value.shape[1:]) == IMAGE


class Moves(TorchDispatchMode):
    """Notes every operation that takes an image on one device and gives one on another."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {value.device for value in (*args, result) if is_image(value)}
        if len(devices) > 1:
            self.seen.moved.append(f"{function} {sorted(map(str, devices))}")
        return result


def characters():
    """Bytes that this process has read and written in all."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]) + int(counts["wchar"])


def memory_copies(profiled, folder):
    """Copies between host and device that are as large as a batch of images, from the device's own record."""
    profiled.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    pixels = IMAGE[0] * IMAGE[1] * IMAGE[2]
    sizes = {n * pixels * width for n in BATCHES.values() for width in (1, 2, 4)}
    between = [e for e in events if "Memcpy" in e.get("name", "") and "DtoD" not in e["name"]]
    return [event["name"] for event in between if event["args"].get("bytes") in sizes]


def watched_round(run, folder):
    """The second round: the first may import modules and choose kernels."""
    run.student.train()
    run._round(0)
    seen = Seen()
    own = -characters() + characters()  # what reading the count costs
    before = characters()
    watching.append(seen)
    try:
        run._round(1)
    finally:
        watching.pop()
    seen.bytes = characters() - before - own
    with Moves(seen):
        run._round(2)
    with profile(activities=supported_activities()) as profiled:
        run._round(3)
    names = {event.key for event in profiled.key_averages()}
    assert "aten::convolution_backward" in names, "the profile shows the round"
    seen.loaders = [name for name in names if "DataLoader" in name]
    if run.accelerator.device.type != "cpu":
        seen.moved += memory_copies(profiled, folder)
    return seen


def make():
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    method = Cmi(
        rounds=4,
        batch_size=BATCHES["student"],
        student_steps=3,
        generator_steps=2,
        synthesis_batch_size=BATCHES["generator"],
        z_dim=5,
        generator_channels=4,
        embedding_dim=3,
        negatives=8,
        feature_bank_size=21,
        bank_size=21,
    )
    return Trainer(
        teacher,
        nets.wrn(seed=1, base_width=4),
        method,
        [],
        TrainerOptions(progress=False, checkpoint_every=0),
    )


def test_a_round_touches_no_file_starts_no_process_and_moves_no_image(tmp_path):
    run = make()
    seen = watched_round(run, tmp_path)
    assert seen == Seen()
    bank, device = run.synthesizer.bank(), run.accelerator.device
    assert bank.images.device == bank.labels.device == device and bank.images.dtype == torch.uint8
    assert run.synthesizer.features.draw(1, torch.Generator())[0].device == device
    assert len(bank) == 21


def save_png(pixels, folder):
    levels = (pixels[0] * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(levels).save(folder / "0.png")
    return pixels


def save_tensor(pixels, folder):
    torch.save(pixels, folder / "0.pt")
    return pixels


def start_process(pixels, _folder):
    subprocess.run([sys.executable, "-c", ""], check=True)
    return pixels


def move_to_another_device(pixels, _folder):
    there = "meta" if pixels.device.type == "cpu" else "cpu"
    pixels.to(there)
    return pixels


def load(pixels, _folder):
    return next(iter(DataLoader(pixels, batch_size=len(pixels))))


@pytest.mark.parametrize(
    ("waste", "part"),
    [
        (save_png, "files"),
        (save_png, "bytes"),
        (save_tensor, "bytes"),
        (start_process, "processes"),
        (move_to_another_device, "moved"),
        (load, "loaders"),
    ],
)
def test_the_watch_finds_each_kind_of_waste(tmp_path, waste, part):
    if part == "bytes" and not characters():
        pytest.skip(NO_PROC)
    run = make()
    sample = run.synthesizer.sample
    run.synthesizer.sample = lambda step: waste(sample(step), tmp_path)
    assert getattr(watched_round(run, tmp_path), part)
