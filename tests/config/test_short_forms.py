"""Short forms of the command line mean what their long forms mean, and presets are the recipes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

from abd_hub import InputError, parse_distill
from abd_hub.config.options import AUTO
from abd_hub.config.parsing import check_distill, parse_poison
from abd_hub.config.presets import preset_file, preset_names

LONG = ["--output_dir=x", "--teacher.id=resnet18"]
HEAVY = {"torch", "timm", "transformers", "datasets", "accelerate", "gradio", "numpy"}


@pytest.mark.parametrize(
    "typed",
    [
        ["resnet18", "--output_dir", "x"],
        ["--teacher", "resnet18", "--output_dir", "x"],
        ["--output-dir=x", "--teacher=resnet18"],
        ["--output-dir=x", "--teacher={id: resnet18}"],
    ],
)
def test_short_forms_of_a_teacher(typed):
    assert parse_distill(typed) == parse_distill(LONG)


def test_short_forms_of_other_models():
    assert parse_distill([*LONG, "--student", "wrn_10_1"]).student.architecture == "wrn_10_1"
    short = parse_poison(["digits", "--output_dir=x", "--network=wrn_10_1"])
    assert short == parse_poison(
        ["--data.dataset=digits", "--output_dir=x", "--network.architecture=wrn_10_1"]
    )


@pytest.mark.parametrize(
    ("typed", "resume", "pickle"),
    [
        (["--resume"], True, False),
        (["--resume", "--teacher.allow_pickle"], True, True),
        (["--teacher.allow_pickle", "--seed=3"], False, True),
        (["--resume", "false", "--teacher.allow_pickle", "yes"], False, True),
        (["--resume=true"], True, False),
    ],
)
def test_switches_need_no_value(typed, resume, pickle):
    config = parse_distill([*LONG, *typed])
    assert (config.resume, config.teacher.allow_pickle) == (resume, pickle)


def test_a_switch_takes_no_other_value():
    with pytest.raises(InputError, match="maybe"):
        parse_distill([*LONG, "--resume", "maybe"])


def test_presets_are_the_recipes():
    files = {file for folder in ("cifar10", "gtsrb") for file in (ROOT / "recipes" / folder).glob("*.yaml")}
    assert {Path(preset_file(name)) for name in preset_names()} == {file.resolve() for file in files}
    preset = parse_distill(["--preset", "cifar10/fast-cpu", *LONG, "--seed=3"])
    assert preset == parse_distill(
        ["--config", str(ROOT / "recipes/cifar10/fast-cpu.yaml"), *LONG, "--seed=3"]
    )


def test_presets_are_installed(tmp_path):
    """A wheel holds them."""
    command = [
        sys.executable,
        "-c",
        "from setuptools import setup; setup()",
        "-q",
        "build_py",
        "-d",
        tmp_path,
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    for name in preset_names():
        file = tmp_path / "abd_hub" / "config" / "presets" / f"{name}.yaml"
        assert file.read_bytes() == (ROOT / "recipes" / f"{name}.yaml").read_bytes()


def test_nothing_left_open_is_a_number_of_rounds():
    assert (parse_distill(LONG).synthesizer, parse_distill(LONG).budget) == (AUTO, "auto")
    assert parse_distill(LONG).trainer.mixed_precision == "auto"
    named = parse_distill([*LONG, "--synthesizer=fast"])
    assert (named.budget, named.trainer.mixed_precision) == ("auto", "no")
    assert parse_distill([*LONG, "--dafl.rounds=20"]).budget is None
    assert parse_distill([*LONG, "--budget=5m"]).budget == "5m"


REFUSED = {
    "no file": ["distill", "--config", "nothere.yaml"],
    "unknown method": ["distill", "--synthesizer", "zskd", *LONG],
    "unknown defense": ["distill", "--defenses=vaccine", *LONG],
    "unknown option": ["distill", "--sede=3", *LONG],
    "unknown option of a method": ["distill", "--fast.ronds=3", *LONG],
    "wrong type": ["distill", "--seed=x", *LONG],
    "out of range": ["distill", "--trainer.log_every=0", *LONG],
    "missing": ["distill", "--seed=3"],
    "no data": ["poison", "--output_dir=x"],
    "unknown trigger options": ["evaluate", "model"],
    "no model": ["inspect"],
    "unknown inspection": ["inspect", "model", "--inspection=mm"],
    "no output": ["purify", "model"],
    "one model": ["compare", "model", "--dataset=digits"],
    "no run": ["card", "nothere"],
    "nothing to push": ["push", "nothere", "org/name"],
    "no bank": ["export-bank", "nothere", "bank"],
    "no sweep": ["sweep", "nothere.yaml"],
    "a folder in use": ["demo", "--output-dir", "."],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_imports_nothing_heavy(name, tmp_path):
    """The modules are counted rather than the seconds: what is slow is importing torch."""
    (tmp_path / "own.txt").touch()
    script = (
        "import sys\nfrom abd_hub.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print((code, sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    command = [sys.executable, "-c", script, *REFUSED[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300)
    code, modules = ast.literal_eval(done.stdout)
    assert code == 2 and done.stderr.startswith("abd-hub: ") and done.stderr.count("\n") == 1
    assert not HEAVY.intersection(modules)


def test_nothing_is_refused_that_will_do():
    check_distill([*LONG, "--fast.rounds=3", "--defenses=dhbe", "--purification=channel_lipschitz_pruning"])
