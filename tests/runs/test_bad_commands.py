"""Wrong words to every command but ``distill`` are refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bad_inputs import ATTACK, refused
from tiny_teacher import DIGITS, save_teacher

from abd_hub.cli import main

EVALUATE = [
    ("no data", [], ["dataset", "--dataset"]),
    ("trigger without target", ["--dataset", "digits", "--trigger", "badnet_sq"], ["target", "--target"]),
    ("target without trigger", ["--dataset", "digits", "--target", "0"], ["trigger", "--trigger"]),
    (
        "unknown trigger",
        ["--dataset", "digits", "--trigger", "badnet_sqr", "--target", "0"],
        ["trigger: 'badnet_sqr'", "badnet_sq"],
    ),
    (
        "unknown option of a trigger",
        ["--dataset=digits", "--trigger=badnet_sq", "--target=0", "--trigger-options", '{"sise": 2}'],
        ["sise", "size"],
    ),
    (
        "target that is no number",
        ["--dataset", "digits", "--trigger", "badnet_sq", "--target", "zero"],
        ["target", "zero"],
    ),
    ("a target twice", [*ATTACK, "--target=1,0"], ["target", "0", "twice"]),
    ("a target beside all", [*ATTACK, "--target", "all"], ["target", "all alone"]),
    ("a comma too many", [*ATTACK, "--target", "1,,2"], ["target", "empty entry"]),
    ("one target of several out of range", [*ATTACK, "--target=3,10"], ["target 10", "0..9"]),
    ("no value for a target", [*ATTACK, "--target"], ["target"]),
    (
        "control without trigger",
        ["--dataset=digits", "--control={tmp}/teacher"],
        ["control", "--trigger", "--target"],
    ),
    ("no such control", [*ATTACK, "--control={tmp}/absent"], ["evaluation.control", "absent"]),
    ("control of other classes", [*ATTACK, "--control={tmp}/three"], ["evaluation.control", "three", "3"]),
    (
        "control with the labels in another order",
        [*ATTACK, "--control={tmp}/turned"],
        ["evaluation.control", "label 0", "'9'", "'0'"],
    ),
    ("unknown field of a control", [*ATTACK, "--control", "{idd: x}"], ["idd", "id", "control"]),
    ("control that is no YAML", [*ATTACK, "--control", "{id: [}"], ["control", "YAML"]),
    (
        "unknown corrupted split",
        ["--dataset=digits", "--corrupted-splits=fog,snow"],
        ["corrupted_splits", "'fog'", "train or test"],
    ),
    (
        "a corrupted split twice",
        ["--dataset=digits", "--corrupted-splits=train,train"],
        ["corrupted_splits", "'train'", "twice"],
    ),
    (
        "the split itself as a corrupted one",
        ["--dataset=digits", "--corrupted-splits=test"],
        ["corrupted_splits", "'test'"],
    ),
    (
        "a comma too many between splits",
        ["--dataset=digits", "--corrupted-splits=train,"],
        ["corrupted_splits", "empty entry"],
    ),
    ("a value for per-class", ["--dataset=digits", "--per-class", "yes"], ["yes"]),
    ("unknown option", ["--dataset", "digits", "--tigger", "badnet_sq"], ["tigger", "trigger"]),
    ("unknown split", ["--dataset", "digits", "--split", "val"], ["split", "val"]),
    ("batch size", ["--dataset", "digits", "--batch-size", "0"], ["batch_size", "0"]),
]


@pytest.mark.parametrize(
    ("extra", "expected"), [row[1:] for row in EVALUATE], ids=[row[0] for row in EVALUATE]
)
def test_evaluate_refuses(place, others, capsys, extra, expected):
    extra = [argument.replace("{tmp}", str(place)) for argument in extra]
    refused(capsys, place, ["evaluate", str(place / "teacher"), *extra], expected)


@pytest.fixture
def others(place):
    """Classifiers with other labels than the teacher's."""
    save_teacher(place / "three", tuple("abc"))
    save_teacher(place / "turned", DIGITS[::-1])
    (place / "folder.png").mkdir()


PLAIN = ["{tmp}/teacher", "{tmp}/second"]
COMPARE = [
    ("no model", ATTACK, ["models"]),
    ("one model", ["{tmp}/teacher", *ATTACK], ["MODEL", "teacher", "at least two"]),
    ("a model twice", ["{tmp}/teacher", "{tmp}/teacher", *ATTACK], ["MODEL", "twice"]),
    ("a model that is not there", [*PLAIN, "{tmp}/absent", *ATTACK], ["absent"]),
    ("no data", PLAIN, ["dataset", "--dataset"]),
    ("trigger without target", [*PLAIN, "--dataset=digits", "--trigger=sig"], ["target", "--target"]),
    ("models of other classes", [*PLAIN, "{tmp}/three", *ATTACK], ["MODEL", "three", "3", "10"]),
    ("labels in another order", [*PLAIN, "{tmp}/turned", *ATTACK], ["MODEL", "label 0", "'9'", "'0'"]),
    ("unknown field of a model", ["{tmp}/teacher", "{id: x, archtecture: y}", *ATTACK], ["architecture"]),
    ("wrong type in a model", ["{tmp}/teacher", "{id: x, input_size: big}", *ATTACK], ["input_size", "big"]),
    ("a model without id", ["{tmp}/teacher", "{input_size: 8}", *ATTACK], ["id"]),
    ("picture of another kind", [*PLAIN, *ATTACK, "--picture={tmp}/x.jpg"], ["picture", "PNG"]),
    ("picture into no folder", [*PLAIN, *ATTACK, "--picture={tmp}/no/x.png"], ["picture", "folder"]),
    ("picture is a folder", [*PLAIN, *ATTACK, "--picture={tmp}/folder.png"], ["picture", "is a folder"]),
    ("picture of no attack", [*PLAIN, "--dataset=digits", "--picture={tmp}/x.png"], ["picture", "--trigger"]),
    ("an option of one model", [*PLAIN, *ATTACK, "--architecture=resnet18"], ["architecture", "unknown"]),
]


@pytest.mark.parametrize(("extra", "expected"), [row[1:] for row in COMPARE], ids=[row[0] for row in COMPARE])
def test_compare_refuses(place, others, capsys, extra, expected):
    save_teacher(place / "second")
    extra = [argument.replace("{tmp}", str(place)) for argument in extra]
    refused(capsys, place, ["compare", *extra], expected)


def test_evaluate_needs_a_model(place, capsys):
    refused(capsys, place, ["evaluate", "--dataset", "digits"], ["model"])


DRAW = ["list", "triggers", "--picture", "x.png"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "--picture", "x.png"], ["picture", "list triggers --picture"]),
        (["list", "defenses", "--picture", "x.png"], ["picture", "list triggers --picture"]),
        ([*DRAW, "--json"], ["json", "leave"]),
        (["list", "triggers", "--dataset", "digits"], ["dataset", "--picture"]),
        ([*DRAW, "--split", "test"], ["split", "--dataset"]),
        (["list", "triggers", "--picture", "x.jpg"], ["picture", "x.jpg", ".png"]),
        (["list", "triggers", "--picture", "no/x.png"], ["picture", "no folder no", "make it"]),
        (["list", "triggers", "--picture", "taken.png"], ["picture", "taken.png is a folder"]),
        (["list", "triggers", "--picture", "file/x.png"], ["picture", "file"]),
        ([*DRAW, "--dataset", "digits", "--split", "dev"], ["split", "dev", "train or test"]),
        ([*DRAW, "--dataset", "nowhere"], ["data set", "nowhere"]),
    ],
)
def test_list_refuses_pictures_it_cannot_draw(place, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(place)
    (place / "taken.png").mkdir(exist_ok=True)
    (place / "file").touch()
    refused(capsys, place, arguments, expected)


def test_of_several_processes_one_a_machine_says_why(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["distil"]) == 2 and capsys.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["distil"]) == 2 and "did you mean distill?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["distil"], ["'distil'", "did you mean distill?"]),
        (["xyzzy"], ["'xyzzy'", "--help"]),
        (["--verbose"], ["'--verbose'"]),
        (["list", "wheels"], ["wheels", "triggers"]),
        (["list", "triggers", "--yaml"], ["--yaml"]),
        (["env", "--yaml"], ["--yaml"]),
        (["demo", "--seed", "x"], ["--seed"]),
        (["demo", "--see", "3"], ["--see"]),
        (["sweep"], ["FILE"]),
    ],
    ids=" ".join,
)
def test_what_is_no_command_or_option(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    refused(capsys, tmp_path, arguments, expected)


@pytest.mark.parametrize(
    "arguments",
    [["distil"], ["distill", "--config", "nothere.yaml"], ["poison", "--config=nothere.yaml"], ["list", "x"]],
    ids=" ".join,
)
def test_what_is_refused_before_torch_is_imported(tmp_path, arguments):
    script = (
        "import sys\nfrom abd_hub.cli import main\n"
        "code = main(sys.argv[1:])\nassert 'torch' not in sys.modules\nsys.exit(code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
