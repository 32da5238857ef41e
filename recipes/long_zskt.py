"""Run the paper's ZSKT with both defenses for some seconds, and tell how long its 80,000 rounds would take.

    python recipes/long_zskt.py --seconds 120 --mixed-precision bf16 --dynamo-backend cudagraphs --output FILE

The networks have the sizes of the paper's, with random weights. Most of the time goes to rounds with the
vaccine alone, the rest to rounds with self-retrospection as well, of which the paper has 600. The time of the
whole run is extrapolated from both. ``--trace`` writes a trace of one round of each kind for chrome://tracing.
It is compressed where the name ends in .gz.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from device_name import name_of
from round_sizes import Size, synchronize
from torch.profiler import profile

from abd_hub import SelfRetrospection, ShufflingVaccine, Trainer, TrainerOptions, Zskt

AHEAD = 20
"""Waits for the device after so many rounds, so that it never runs out of work in between."""
LATE_SHARE = 0.2
"""Share of the seconds for the rounds with retrospection."""


def main() -> None:
    options = arguments()
    trainer = made(options)
    first, late = 0, trainer.method.rounds - trainer.defenses[1].settings.last_rounds
    compiling = seconds_of(lambda: trainer._round(first))

    early = rounds_within(trainer, first + 1, (1 - LATE_SHARE) * options.seconds)
    with_retrospection = rounds_within(trainer, late, LATE_SHARE * options.seconds)
    facts = told(trainer, options, compiling, early, with_retrospection)
    if options.trace:
        write_trace(options.trace, lambda: (trainer._round(late - 1), trainer._round(late + 1)))
    print(json.dumps(facts, indent=1))
    if options.output:
        options.output.write_text(json.dumps(facts, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="Run rounds for so long.")
    parser.add_argument("--rounds", type=int, default=80_000, help="Extrapolate to so many rounds.")
    parser.add_argument("--late-rounds", type=int, default=600, help="Use retrospection in the last of them.")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--teacher", default="wrn_16_2")
    parser.add_argument("--student", default="wrn_16_1")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--dynamo-backend", default="no")
    parser.add_argument("--trace", type=Path, help="Write a trace of two rounds to this file.")
    parser.add_argument("--output", type=Path, help="Write the figures to this JSON file.")
    return parser.parse_args()


def made(options: argparse.Namespace) -> Trainer:
    size = Size(teacher=options.teacher, student=options.student, image_size=options.image_size)
    teacher, student = size.networks()
    defenses = [ShufflingVaccine(check=False), SelfRetrospection(last_rounds=options.late_rounds)]
    run = TrainerOptions(
        mixed_precision=options.mixed_precision,
        dynamo_backend=options.dynamo_backend,
        checkpoint_every=0,
        progress=False,
    )
    method = Zskt(rounds=options.rounds, batch_size=options.batch_size)
    trainer = Trainer(teacher, student, method, [one.build(teacher) for one in defenses], run)
    student.train()
    return trainer


def rounds_within(trainer: Trainer, first: int, seconds: float) -> tuple[int, float]:
    """Runs rounds for at least so long, and returns their number and their time."""
    trainer._round(first)  # chooses kernels
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        trainer._round(first + 1 + done)
        done += 1
        if done % AHEAD == 0:
            synchronize()
    synchronize()
    return done, time.perf_counter() - began


def told(
    trainer: Trainer,
    options: argparse.Namespace,
    compiling: float,
    early: tuple[int, float],
    late: tuple[int, float],
) -> dict:
    """Returns all figures; the time of the whole run is extrapolated."""
    ordinary, retrospective = early[1] / early[0], late[1] / late[0]
    whole = (options.rounds - options.late_rounds) * ordinary + options.late_rounds * retrospective
    device = PartialState().device
    on_device = device.type != "cpu"
    return {
        "device": name_of(device),
        "torch": torch.__version__,
        "mixed_precision": options.mixed_precision,
        "dynamo_backend": options.dynamo_backend,
        "rounds": early[0],
        "round_s": round(ordinary, 5),
        "late_rounds": late[0],
        "late_round_s": round(retrospective, 5),
        "first_round_s": round(compiling, 2),
        "peak_mb": round(torch.accelerator.max_memory_allocated() / 1e6) if on_device else None,
        "extrapolated_rounds": options.rounds,
        "extrapolated_minutes": round(whole / 60, 2),
    }


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - began


def write_trace(file: Path, action: Callable[[], object]) -> None:
    with profile() as profiler:
        action()
        synchronize()
    profiler.export_chrome_trace(str(file))


if __name__ == "__main__":
    main()
