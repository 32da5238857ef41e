"""Measures how costs grow with the classes, the size of the images, the processes, and the runs of a sweep.

    python recipes/scale.py --results recipes/results/scale [--only classes sizes processes runs]

All networks are WRN-16-1 with random weights. Each point is a process of its own, so that its peak memory is
its own. A point that is there is not measured again. ``recipes/scale_pictures.py`` draws the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from device_name import name_of
from round_sides import side
from round_sizes import MEAN, STD, Size

from abd_hub import (
    Attack,
    TriggerInversion,
    build_trigger,
    create_student,
    evaluate,
    inspect_model,
    save_timm_folder,
)

HERE = Path(__file__).resolve().parent
NETWORK = "wrn_16_1"
VALUES = {
    "classes": (10, 43, 100, 300, 1000),
    "sizes": (32, 64, 112, 224),
    "processes": (1, 2),
    "runs": (5, 20, 80),
}
FEW, MANY = 4, 12
"""Steps of two searches, whose difference gives the seconds of a step."""
EVALUATED = 256
"""Images on which an evaluation is timed."""
ROUNDS = 12
"""Rounds of a distillation on several processes; the first four are not counted."""


def inspection_seconds(size: Size, default: int) -> dict[str, float]:
    """Times two short searches, and extrapolates to ``default`` steps."""
    teacher, _ = size.networks()
    seconds = []
    for steps in (1, FEW, MANY):  # the first one chooses kernels
        began = time.perf_counter()
        inspect_model(teacher, inspection=TriggerInversion(steps=steps))
        seconds.append(time.perf_counter() - began)
    step = (seconds[2] - seconds[1]) / (MANY - FEW)
    return {"step_s": step, "inspection_s": seconds[1] + (default - FEW) * step}


def round_seconds(size: Size) -> float:
    """Times the second of two rounds of ZSKT."""
    loop = side("zskt", size, "float32")
    loop.turn()
    return loop.turn().seconds


def images_a_second(size: Size) -> float:
    """Times an evaluation with one attack, whose images pass twice."""
    teacher, _ = size.networks()
    shape = (EVALUATED, 3, size.image_size, size.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8)
    labels = torch.arange(EVALUATED) % size.classes
    began = time.perf_counter()
    evaluate(teacher, images, labels, [Attack("badnet_sq", 0, build_trigger("badnet_sq"))])
    return EVALUATED / (time.perf_counter() - began)


def of_size(size: Size) -> dict[str, float]:
    """Measures one distillation's parts, each alone."""
    found = {"round_s": round_seconds(size), "evaluated_per_s": images_a_second(size)}
    found |= inspection_seconds(size, TriggerInversion().steps)
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def classes(value: int) -> dict[str, float]:
    """Measures with so many classes of 32x32 images."""
    return of_size(Size(teacher=NETWORK, student=NETWORK, classes=value))


def sizes(value: int) -> dict[str, float]:
    """Measures with images of so many pixels a side; batches of 16 keep 224 pixels within minutes."""
    return of_size(Size(teacher=NETWORK, student=NETWORK, image_size=value, batch_size=16))


def processes(value: int) -> dict[str, Any]:
    """Distills on so many processes of this machine, each with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        run = distillation(Path(folder), rounds=ROUNDS)
        run |= {"output_dir": f"{folder}/run"}
        file = Path(folder, "run.yaml")
        file.write_text(yaml.safe_dump(run))
        launch = HERE / "launch" / ("one_process.yaml" if value == 1 else "two_processes.yaml")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch)]
        command += ["--num_processes", str(value), "-m", "abd_hub", "distill", "--config", str(file)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        subprocess.run(command, check=True, env=one_thread)
        lines = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines()]
    spent = {line["round"]: line["seconds"] for line in lines if "seconds" in line}
    return {"round_s": (spent[ROUNDS] - spent[4]) / (ROUNDS - 4), "device": "cpu (1 thread a process)"}


def runs(value: int) -> dict[str, float]:
    """Sweeps over so many seeds of a run that takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        table = {"output_dir": f"{folder}/table", "config": distillation(Path(folder), rounds=4)}
        table |= {"grid": {"seed": list(range(value))}}
        file = Path(folder, "sweep.yaml")
        file.write_text(yaml.safe_dump(table))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "abd_hub", "sweep", str(file)], check=True, stdout=sys.stderr)
        wall = time.perf_counter() - began
        records = [json.loads(one.read_text()) for one in Path(folder, "table").rglob("metrics.json")]
    assert len(records) == value, f"{len(records)} of {value} runs have ended"
    inside = sum(sum(record["durations"].values()) for record in records) / value
    return {"wall_s": wall, "wall_a_run_s": wall / value, "inside_a_run_s": inside}


def distillation(folder: Path, rounds: int) -> dict[str, Any]:
    """Returns the settings of a short run, whose teacher is written into the folder."""
    size = Size()
    teacher = create_student(NETWORK, size.spec, MEAN, STD, seed=0)
    save_timm_folder(teacher.eval(), folder / "teacher")
    return {
        "teacher": {"id": f"local-dir:{folder}/teacher"},
        "student": {"architecture": NETWORK},
        "synthesizer": "zskt",
        "zskt": {"rounds": rounds, "batch_size": 64, "attention_weight": 0},
        "purification": "none",
        "trainer": {"progress": False, "checkpoint_every": 0, "log_every": 2},
    }


POINTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "classes": classes,
    "sizes": sizes,
    "processes": processes,
    "runs": runs,
}


def machine() -> dict[str, Any]:
    """Returns on what a point was measured."""
    facts = {"device": name_of(PartialState().device), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return facts | {"machine": platform.machine(), "torch": torch.__version__}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "scale", help="Holds the JSON files."
    )
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS), help="Names what grows.")
    parser.add_argument("--values", type=int, nargs="+", help="Replaces the values of what grows.")
    parser.add_argument(
        "--point", nargs=2, metavar=("KIND", "VALUE"), help="Measures one point in this process."
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.point:
        kind, value = options.point
        print(json.dumps({"value": int(value), **machine(), **POINTS[kind](int(value))}))
        return
    options.results.mkdir(parents=True, exist_ok=True)
    for kind in options.only:
        for value in options.values or VALUES[kind]:
            file = options.results / f"{kind}_{value}.json"
            if not file.exists():
                command = [sys.executable, __file__, "--point", kind, str(value)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                file.write_text(done.stdout.splitlines()[-1] + "\n")
                print(f"{file.name}: {done.stdout.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
