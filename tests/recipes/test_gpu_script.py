"""The script that measures an accelerator unattended runs every one of its steps on any machine, tiny."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
import quick_python
from missing import published

ROOT = Path(__file__).parents[2]


def run(out, *folders):
    environment = {**os.environ, "ABD_HUB_TINY": "1", "PYTHON": quick_python.executable()}
    return subprocess.run(
        [str(ROOT / "recipes" / "gpu.sh"), str(out), *map(str, folders)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_step_writes_its_figures_though_one_fails(tmp_path):
    done = run(tmp_path / "out", *3 * [tmp_path / "nowhere"])
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "failed: student", done.stdout
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["results"]
    for kind in ("no", "bf16", "compiled"):
        facts = json.loads((tmp_path / "out" / f"long_zskt_{kind}.json").read_text())
        assert facts["rounds"] >= 1 and facts["late_rounds"] >= 1
        minutes = (12 * facts["round_s"] + 8 * facts["late_round_s"]) / 60
        assert facts["extrapolated_minutes"] == pytest.approx(minutes, abs=0.01)
    with gzip.open(tmp_path / "out" / "trace.json.gz") as trace:
        assert json.load(trace)["traceEvents"]


def test_a_published_teacher_gets_a_student(tmp_path):
    folders = published("teachers"), published("cifar10"), published("triggers")
    done = run(tmp_path / "out", *folders)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("all steps are done")
    assert list((tmp_path / "out" / "students").iterdir())
