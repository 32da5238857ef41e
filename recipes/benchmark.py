"""Compares the cost of a round here with the published loop, on the same networks and the same steps.

Both sides take turns in one process. The figures are medians of the turns, with the lowest and the highest.
The published loops (``textbook_loops.py``) run in float32, ours in float32 and in bf16. The faster of our two
rows has no precision in its name. By default, bf16 is left out on a processor that only emulates it.

A round has the steps of the paper: one generator step and ten student steps for ZSKT and DFQ, 200 and 400 for
CMI, 10 and 400 for Fast. OOD has no generator; its round has ten student steps on patches.
In a round of ``zskt+sv+sr`` self-retrospection works against the teacher, as in the published sweeps. In a
round of ``zskt+sv+sr-student`` it works against the student, as in the paper. The paper needs it in the last
600 of 80,000 rounds, and ``whole_run`` weighs rounds with and without it accordingly.

All steps of CMI and of Fast are alike, and so are the textbook's student steps with retrospection. The
benchmark times a few of them and scales their sum to the round.

A fresh process measures the peak of the memory that the loop needs beyond what the process held before. FLOPs
count convolutions and products of matrices. The share of the peak compares them with a large product or a
large convolution on the same device in the same precision, whichever is faster.

    python recipes/benchmark.py [--device cpu] [--only zskt+sv cmi] [--turns 3] [--scaling] [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from device_name import name_of
from round_costs import compared, measured_peaks, print_peak_memory, rounded, scaling, whole_run
from round_sizes import EMULATED, NAMES, PRECISIONS, Size, at_full_speed

from abd_hub import InputError


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu"),
        help="Select the device; auto lets accelerate choose.",
    )
    parser.add_argument("--output", type=Path, help="Write the figures to this JSON file.")
    parser.add_argument(
        "--only",
        nargs="+",
        default=list(NAMES),
        metavar="NAME",
        help=f"Measure these methods only: {', '.join(NAMES)}.",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        help="Measure ours in these; by default in those for which the device has units.",
    )
    parser.add_argument(
        "--turns", type=int, default=3, help="Time so many turns of each side, after one to warm up."
    )
    parser.add_argument(
        "--scaling", action="store_true", help="Measure also how the cost grows with the sizes."
    )
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    for field in dataclasses.fields(Size):
        kind = str if isinstance(field.default, str) else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuses options that cannot be measured, before any work.

    Raises:
        InputError: an option has a value that cannot be used.
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
    precisions = options.precisions or at_full_speed()
    left_out = sorted(PRECISIONS.keys() - precisions)
    if "bf16" in left_out and not options.precisions:
        print(EMULATED, flush=True)
    peaks = measured_peaks(["float32", *(one for one in precisions if one != "float32")])
    rows = []
    for name in options.only:
        for found in compared(name, size, precisions, options.turns, peaks):
            rows.append(found)
            print(line(found), flush=True)
    facts = {
        "device": name_of(PartialState().device),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "turns": options.turns,
        "size": dataclasses.asdict(size),
        "left_out": left_out,
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
