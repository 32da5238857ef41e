"""The file of a small sweep, written into the folder where the test works."""

from pathlib import Path

import yaml

from abd_hub.sweep.config import read_sweep

BASE = {
    "teacher": {"id": "local-dir:teacher"},
    "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
    "synthesizer": "zskt",
    "zskt": {"rounds": 2, "batch_size": 4, "student_steps": 1, "attention_weight": 0, "z_dim": 4},
    "purification": "none",
    "evaluation": {
        "dataset": "digits",
        "limit": 20,
        "triggers": [{"name": "badnet_sq", "target": 0, "options": {"size": 2, "margin": 0}}],
    },
}

GRID = {"seed": [0, 1], "defenses": [[], ["shuffling_vaccine"]]}


def write(name="sweep.yaml", **fields):
    content = {"output_dir": "out", "config": BASE, "grid": GRID} | fields
    Path(name).write_text(
        yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False)
    )
    return name


def names(file):
    return [run.name for run in read_sweep(file).runs]
