"""A command that refuses what it is given: exit code 2, one clear line, nothing written."""

from __future__ import annotations

import yaml
from folders import snapshot

from abd_hub.cli import main

WEIGHTS = {"teacher.id": "{tmp}/weights.pth", "teacher.architecture": "wrn_10_1", "teacher.input_size": 8}
BARE = WEIGHTS | {"teacher.mean": [0.5] * 3, "teacher.std": [0.5] * 3}
ATTACK = ["--dataset=digits", "--trigger=badnet_sq", "--target=0"]


def basic(tmp):
    """A run in which nothing is wrong."""
    return {
        "output_dir": f"{tmp}/out",
        "synthesizer": "zskt",
        "zskt": {"rounds": 2, "batch_size": 4, "student_steps": 1, "attention_weight": 0, "z_dim": 4},
        "purification": "none",
        "teacher": {"id": f"local-dir:{tmp}/teacher"},
        "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
        "evaluation": {"dataset": "digits", "limit": 20},
        "trainer": {"progress": False},
    }


def refused(capsys, tmp, arguments, expected):
    before = snapshot(tmp)
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.strip()]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("abd-hub: ")
    for part in expected:
        assert part in lines[0], lines[0]
    assert "Traceback" not in shown.out + shown.err
    assert shown.out == ""
    assert snapshot(tmp) == before


def write_config(tmp, changes):
    """The basic configuration with some dotted keys set, or taken out where the value is None."""
    content = basic(tmp)
    for key, value in changes.items():
        *path, last = key.split(".")
        group = content
        for name in path:
            group = group.setdefault(name, {})
        if value is None:
            del group[last]
        else:
            group[last] = value.format(tmp=tmp) if isinstance(value, str) else value
    file = tmp / "run.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)
