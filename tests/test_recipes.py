"""What recipes/ and the README show works as shown."""

import os
import subprocess
import sys
from pathlib import Path

import nets
import pytest

from abd_hub.classifier import save_timm_folder

ROOT = Path(__file__).parents[1]


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_tables_of_the_readme_are_those_of_the_results():
    assert run("recipes/tables.py", "--check").returncode == 0, "run python recipes/tables.py"


def test_ten_lines_of_the_readme_are_the_recipes():
    recipe = (ROOT / "recipes" / "ten_lines.py").read_text()
    shown = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    body = recipe[recipe.index("config = ") :]
    for variable, value in (("id=teacher", 'id="hf-hub:org/name"'), ("=dataset,", '="uoft-cs/cifar10",')):
        body = body.replace(variable, value)
    assert shown.split("\n\n")[1].split() == body.replace("=output_dir", '="runs/student"').split()


def test_plug_ins_work_in_a_loop_of_ones_own(tmp_path):
    save_timm_folder(nets.wrn(base_width=4).freeze(), tmp_path / "teacher")
    done = run("recipes/own_loop.py", f"local-dir:{tmp_path}/teacher", "6")
    assert done.returncode == 0, done.stderr
    assert "shuffling_vaccine: " in done.stdout
    assert "self_retrospection: active; added its gradient to 2 student steps" in done.stdout


def test_a_network_that_only_a_script_defines(tmp_path):
    shared = ROOT.parent / "shared" / "data"
    teacher = shared / "teachers" / "badnets_8_02_ckpt.pth"
    if not teacher.exists():
        pytest.skip("the published teacher is not here")
    done = run(
        *(
            "recipes/ibau_teacher.py",
            str(teacher),
            str(shared / "cifar10"),
            "--output-dir",
            str(tmp_path / "run"),
        ),
        *("--abd", "--rounds", "2", "--retrospection-rounds", "1", "--limit", "100", "--batch-size", "8"),
    )
    assert done.returncode == 0, done.stderr
    assert "teacher: accuracy 0." in done.stdout
