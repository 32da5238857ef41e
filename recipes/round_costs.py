"""A round costs seconds, FLOPs and memory, and the costs grow with its sizes."""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from round_sides import BANKS, Side, side
from round_sizes import Size, Spent, timed

from abd_hub import Cmi

RETROSPECTIVE_SHARE = 600 / 80_000
"""Sets the share of rounds with retrospection, as in the paper's run of ZSKT."""


def compared(name: str, size: Size, precisions: list[str], turns: int, peaks: dict[str, float]) -> list[dict]:
    """Returns one row for each precision of ours; all sides take turns."""
    torch.manual_seed(0)
    sides: dict[str | None, Side] = {one: side(name, size, one) for one in (None, *precisions)}
    spent: dict[str | None, list[Spent]] = {one: [] for one in sides}
    for turn in range(turns + 1):
        for one, loop in sides.items():
            took = loop.turn()
            if turn:  # the first turn is slower because it chooses kernels
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
    steps = Cmi.student_steps if name in BANKS else size.student_steps
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
    """Returns the mean round of the paper's 80,000 rounds of ZSKT with both defenses, by precision."""
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
    """Returns the FLOPs a second of a product of matrices or of a convolution, whichever is faster."""
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


SCRIPT = str(Path(__file__).with_name("benchmark.py"))


def peak_memory(name: str, size: Size, precision: str | None) -> float:
    """Returns the bytes that the loop needs beyond its start.

    An accelerator counts its own bytes. On a processor a fresh process counts the loop's alone.
    """
    if PartialState().device.type != "cpu":
        return bytes_needed(name, size, precision)
    task = json.dumps({"name": name, "size": dataclasses.asdict(size), "precision": precision})
    done = subprocess.run(
        [sys.executable, SCRIPT, "--peak-of", task], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def print_peak_memory(task: str) -> None:
    """Prints the bytes for ``peak_memory``."""
    settings = json.loads(task)
    print(bytes_needed(settings["name"], Size(**settings["size"]), settings["precision"]))


def bytes_needed(name: str, size: Size, precision: str | None) -> int:
    """Returns the bytes that two rounds of two student steps need; further steps need no more."""
    size = dataclasses.replace(
        size,
        student_steps=2,
        retrospective_steps=2,
        cmi_generator_steps=2,
        fast_generator_steps=2,
        bank_student_steps=2,
    )
    loop = side(name, size, precision)
    before = reset_peak()
    for _ in range(2):
        loop.turn()
    return peak() - before


CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak() -> int:
    """Lets the peak count from now on and returns the bytes that are held now."""
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
    """Returns the seconds of a round of zskt+sv in float32, with one size changed at a time."""
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
