"""Whatever is wrong with what the user gives: exit code 2, one clear line, nothing written."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from folders import snapshot
from hostile_pickle import Hostile
from safetensors.torch import load_file, save_file
from tiny_teacher import DIGITS, save_teacher

from abd_hub.cli import main
from abd_hub.config.parsing import parse_distill
from abd_hub.core.folder import OutputFolder

ROOT = Path(__file__).parents[2]
WEIGHTS = {"teacher.id": "{tmp}/weights.pth", "teacher.architecture": "wrn_10_1", "teacher.input_size": 8}
BARE = WEIGHTS | {"teacher.mean": [0.5] * 3, "teacher.std": [0.5] * 3}


def basic(tmp):
    """A run in which nothing is wrong."""
    return {
        "output_dir": f"{tmp}/out",
        "synthesizer": "zskt",
        "zskt": {"rounds": 2, "batch_size": 4, "student_steps": 1, "attention_weight": 0, "z_dim": 4},
        "teacher": {"id": f"local-dir:{tmp}/teacher"},
        "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
        "evaluation": {"dataset": "digits", "limit": 20},
        "trainer": {"progress": False},
    }


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Each case is a command of its own: no accelerator and no cached data set from the case before."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.parent / f"{tmp_path.name}-cache")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("bad") / "teacher")


@pytest.fixture
def place(tmp_path, teacher):
    """A folder with the teacher in it."""
    (tmp_path / "teacher").mkdir()
    for file in teacher.iterdir():
        (tmp_path / "teacher" / file.name).write_bytes(file.read_bytes())
    return tmp_path


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


def edit_config(tmp, **changes):
    """Changes of pretrained_cfg in the teacher's config.json."""
    file = tmp / "teacher" / "config.json"
    content = json.loads(file.read_text())
    kept = {**content["pretrained_cfg"], **changes}
    content["pretrained_cfg"] = {name: value for name, value in kept.items() if value is not None}
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------- what makes a place bad


def no_mean(tmp):
    edit_config(tmp, mean=None)


def no_size(tmp):
    edit_config(tmp, input_size=None)


def three_classes(tmp):
    save_teacher(tmp / "teacher", tuple("abc"))


def nan_weights(tmp):
    file = tmp / "teacher" / "model.safetensors"
    tensors = load_file(file)
    tensors["fc.bias"][0] = float("nan")
    save_file(tensors, file)


def damaged_weights(tmp):
    (tmp / "teacher" / "model.safetensors").write_bytes(b"not tensors")


def a_pickle(tmp):
    torch.save(load_file(tmp / "teacher" / "model.safetensors"), tmp / "weights.pth")


def hostile_pickle(tmp):
    (tmp / "weights.pth").write_bytes(pickle.dumps({"net": Hostile(tmp / "ran")}))


def hostile_zip(tmp):
    torch.save({"net": Hostile(tmp / "ran")}, tmp / "weights.pth")


def pictures(tmp, names=("cat", "dog")):
    """A data set of one gray 8x8 picture a class."""
    from PIL import Image

    for name in names:
        folder = tmp / "data" / "test" / name
        folder.mkdir(parents=True)
        Image.new("L", (8, 8), 90).save(folder / "a.png")


def unreadable_image(tmp):
    pictures(tmp)
    (tmp / "data" / "test" / "dog" / "a.png").write_bytes(b"\x89PNG and then something else")


def empty_split(tmp):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("ab"))})
    (tmp / "data").mkdir()
    rows = datasets.Dataset.from_dict({"image": [], "label": []}, features=features)
    rows.to_parquet(tmp / "data" / "test-00000-of-00001.parquet")


def foreign_file(tmp):
    (tmp / "out").mkdir()
    (tmp / "out" / "thesis.txt").write_text("years of work")


def foreign_config(tmp):
    (tmp / "out").mkdir()
    (tmp / "out" / "config.yaml").write_text("mine: 1\n")


def a_file(tmp):
    (tmp / "out").write_text("a file")


def a_file_above(tmp):
    (tmp / "above").write_text("a file")


def unfinished(tmp):
    """A run with seed 7 that was killed."""
    config = parse_distill(["--config", write_config(tmp, {"seed": 7})])
    OutputFolder.open(tmp / "out", resume=False, config_yaml=config.to_yaml()).close()


def finished(tmp):
    unfinished(tmp)
    (tmp / "out" / "metrics.json").write_text("{}")


TRIGGER = {"name": "badnet_sq", "target": 0}


def case(name, *expected, make=None, extra=(), marks=(), **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return pytest.param(make, changes, list(extra), expected, id=name, marks=marks)


def triggers(**changes):
    return [TRIGGER | changes]


DISTILL = [
    case("unknown section", "studnet", "unknown", "student", studnet={"architecture": "wrn_10_1"}),
    case("unknown key", "zskt.round", "unknown", "zskt.rounds", zskt__round=3),
    case("unknown key inside a trigger", "triggers", "targt", evaluation__triggers=triggers(targt=1)),
    case("unknown key on the command line", "zskt.ruonds", "zskt.rounds", extra=["--zskt.ruonds", "3"]),
    case("unknown option on the command line", "sede", "seed", extra=["--sede=3"]),
    case("a word too many", "elephant", extra=["elephant"]),
    case("wrong type", "zskt.rounds", "many", zskt__rounds="many"),
    case("wrong type on the command line", "seed", "x", extra=["--seed", "x"]),
    case("a number for a section", "trainer", "mapping", "3", trainer=3),
    case("a number for the triggers", "evaluation.triggers", "3", evaluation__triggers=3),
    case("a trigger without target", "evaluation.triggers", "target", evaluation__triggers=[{"name": "sig"}]),
    case("a word for a list", "defenses", "vaccine", defenses="vaccine"),
    case("no teacher", "teacher.id", teacher__id=None),
    case("no output folder", "output_dir", output_dir=None),
    case("unknown synthesizer", "zskd", "zskt", synthesizer="zskd", zskt=None),
    case("unknown defense", "shufling_vaccine", "shuffling_vaccine", defenses=["shufling_vaccine"]),
    case("a defense twice", "defenses", "self_retrospection", defenses=["self_retrospection"] * 2),
    case(
        "unknown trigger", "badnet_square", "badnet_sq", evaluation__triggers=triggers(name="badnet_square")
    ),
    case("unknown student", "wrn_10_l", "wrn_10_1", student__architecture="wrn_10_l"),
    case("unknown argument of the student", "color", student__model_args={"color": 1}),
    case(
        "settings of a defense not chosen",
        "self_retrospection",
        "defenses",
        self_retrospection__last_rounds=3,
    ),
    case("settings of a synthesizer not chosen", "real", "synthesizer", real__share=0.5),
    case("unknown teacher", "resnet81", "did you mean", teacher__id="resnet81"),
    case("no such teacher folder", "absent", "does not exist", teacher__id="local-dir:{tmp}/absent"),
    case("no mean", "mean", "pass mean", make=no_mean),
    case("no input size", "input_size", "pass input_size", make=no_size),
    case("data of other classes", "evaluation.dataset", "10 classes", "classifier 3", make=three_classes),
    case("class count that is not the teacher's", "num_classes", "4", teacher__num_classes=4),
    case("NaN weights", "fc.bias", "NaN", make=nan_weights),
    case("damaged weights", "weights", "model.safetensors", make=damaged_weights),
    case("pickle without permission", "weights.pth", "allow_pickle", make=a_pickle, **BARE),
    case(
        "bare weights without mean", "mean", "pass mean", make=a_pickle, teacher__allow_pickle=True, **WEIGHTS
    ),
    case("image size for the generator", "input_size", "multiples of 4", teacher__input_size=10),
    case("no such data set", "nothing", evaluation__dataset="{tmp}/nothing"),
    case("unknown split", "split", "'validation'", "test", evaluation__split="validation"),
    case(
        "unreadable image",
        "image 1",
        "is no picture",
        make=unreadable_image,
        evaluation__dataset="{tmp}/data",
    ),
    case("empty split", "split", "'test'", "empty", make=empty_split, evaluation__dataset="{tmp}/data"),
    case("limit of no image", "evaluation.limit", "0", evaluation__limit=0),
    case("a negative number of rounds", "evaluation.every", "-1", evaluation__every=-1),
    case(
        "watching without data", "evaluation.dataset", "every", evaluation__dataset=None, evaluation__every=2
    ),
    case(
        "too few images to watch with",
        "evaluation.every_images",
        "target 0",
        evaluation__every=2,
        evaluation__every_images=1,
        evaluation__triggers=triggers(target=0),
    ),
    case("target out of range", "target", "10", "0..9", evaluation__triggers=triggers(target=10)),
    case("negative target", "target", "-1", "0..9", evaluation__triggers=triggers(target=-1)),
    case(
        "trigger larger than the image",
        "badnet_sq",
        "8x8",
        evaluation__triggers=triggers(options={"size": 9}),
    ),
    case("unknown option of a trigger", "sise", "size", evaluation__triggers=triggers(options={"sise": 2})),
    case(
        "triggers without data",
        "evaluation.dataset",
        evaluation__dataset=None,
        evaluation__triggers=triggers(),
    ),
    case("output folder of somebody else", "output_dir", "--output_dir", make=foreign_file),
    case("output folder with a foreign config.yaml", "output_dir", "--output_dir", make=foreign_config),
    case("output folder that is finished", "output_dir", "finished", make=finished),
    case("output folder that is not finished", "output_dir", "--resume", make=unfinished),
    case("output folder is a file", "output_dir", "is a file", make=a_file),
    case("output folder below a file", "output_dir", "file", make=a_file_above, output_dir="{tmp}/above/out"),
    case("resume with another configuration", "seed", "7", "8", make=unfinished, seed=8, resume=True),
    case("negative rounds", "zskt.rounds", "-1", zskt__rounds=-1),
    case("batch size of nothing", "zskt.batch_size", "0", zskt__batch_size=0),
    case("learning rate that is not a number", "zskt.learning_rate", "nan", zskt__learning_rate=float("nan")),
    case("batch size of one", "batch_size", "1", "at least 2", zskt__batch_size=1),
    case("infinite temperature", "zskt.temperature", "inf", zskt__temperature=float("inf")),
    case(
        "coefficient that is not a number",
        "shuffling_vaccine.coefficient",
        "nan",
        defenses=["shuffling_vaccine"],
        shuffling_vaccine__coefficient=float("nan"),
    ),
    case("null for a target", "evaluation.triggers", "target", evaluation__triggers=triggers(target=None)),
    case("no number for a mean", "teacher.mean", "list[float]", "0.5", teacher__mean="0.5"),
    case("empty name of a data set", "evaluation.dataset", "empty", evaluation__dataset=" "),
    case("unknown source", "self_retrospection.source", "pupil", self_retrospection__source="pupil"),
    case("share above one", "real.share", "2", synthesizer="real", zskt=None, real__share=2),
    case("unknown precision", "trainer.mixed_precision", "fp8", trainer__mixed_precision="fp8"),
    case("unknown compiler", "trainer.dynamo_backend", "tvm", trainer__dynamo_backend="tvm"),
    case("unknown tracker", "trainer", "nosuch", trainer__trackers=["nosuch"]),
    case(
        "tracker that is not installed",
        "trainer.trackers",
        "dvclive",
        "install",
        trainer__trackers=["dvclive"],
    ),
    case("checkpoint limit of none", "trainer.checkpoint_limit", "0", trainer__checkpoint_limit=0),
    case(
        "attention transfer without matching blocks",
        "attention_weight",
        "to 0",
        zskt__attention_weight=250,
        teacher__blocks=["group3"],
    ),
    case("unknown block", "blocks", "group9", teacher__blocks=["group9"]),
    case(
        "the same split for training and measuring",
        "split",
        "'test'",
        synthesizer="real",
        zskt=None,
        real__dataset="digits",
        real__split="test",
    ),
    case(
        "a corrupted split for training and measuring",
        "split",
        "'train'",
        synthesizer="real",
        zskt=None,
        real__dataset="digits",
        real__split="train",
        evaluation__corrupted_splits=["train"],
    ),
    case("unknown corrupted split", "corrupted_splits", "'fog'", evaluation__corrupted_splits=["fog"]),
    case(
        "corrupted splits without data",
        "evaluation.dataset",
        evaluation__dataset=None,
        evaluation__corrupted_splits=["fog"],
    ),
    case(
        "control without triggers",
        "evaluation.control",
        "triggers",
        evaluation__control={"id": "{tmp}/teacher"},
    ),
    case(
        "unknown key inside a control",
        "evaluation.control",
        "idd",
        evaluation__triggers=triggers(),
        evaluation__control={"idd": "x"},
    ),
    case(
        "control that is not there",
        "evaluation.control",
        "absent",
        evaluation__triggers=triggers(),
        evaluation__control={"id": "local-dir:absent"},
    ),
    case("real images from nowhere", "real.dataset", synthesizer="real", zskt=None),
]


@pytest.mark.parametrize(("make", "changes", "extra", "expected"), DISTILL)
def test_distill_refuses(place, capsys, make, changes, extra, expected):
    if make:
        make(place)
    refused(capsys, place, ["distill", "--config", write_config(place, changes), *extra], expected)


def test_nothing_is_wrong_with_the_basic_configuration(place):
    parse_distill(["--config", write_config(place, {})])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", ["config", "mapping", "list"]),
        ("teacher: {id: [\n", ["config", "YAML"]),
        ("", ["config", "mapping"]),
        ("seed: !!python/object/apply:os.getcwd []\n", ["config", "YAML"]),
        (b"\xff\xfe\x00", ["config", "cannot be read"]),
        (None, ["config", "run.yaml", "cannot be read"]),
        ("1: 2\n", ["1", "unknown"]),
        ("output_dir: x\nteacher: {id: x}\nzskt: {rounds: }\n", ["zskt.rounds", "no value"]),
        ("output_dir: x\nteacher: {id: x}\nsynthesizer:\n", ["synthesizer", "no value"]),
        ("output_dir: x\nteacher: {id: x}\ndefenses:\n", ["defenses", "no value"]),
        ("output_dir: x\nteacher: {id: x}\ntrainer:\n", ["trainer", "mapping"]),
    ],
    ids=[
        *("list", "broken", "empty", "python object", "not text", "missing", "number as key"),
        *("null for a number", "null for a name", "null for a list", "null for a section"),
    ],
)
def test_files_that_are_no_configuration(place, capsys, text, expected):
    file = place / "run.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, place, ["distill", "--config", str(file)], expected)


@pytest.mark.parametrize("make", [hostile_pickle, hostile_zip])
@pytest.mark.parametrize("allow", [True, False])
def test_a_pickle_that_would_run_code(place, capsys, make, allow):
    make(place)
    file = write_config(place, BARE | {"teacher.allow_pickle": allow})
    refused(capsys, place, ["distill", "--config", file], ["weights", "weights.pth"])
    assert not (place / "ran").exists()


def test_an_output_folder_in_use_by_another_process(place, capsys):
    config = parse_distill(["--config", write_config(place, {})]).to_yaml()
    (place / "stored.yaml").write_text(config)
    script = (
        "import sys; from pathlib import Path; from abd_hub.core.folder import OutputFolder\n"
        "text = Path(sys.argv[2]).read_text()\n"
        "with OutputFolder.open(sys.argv[1], resume=False, config_yaml=text):\n"
        "    print('open', flush=True)\n    input()"
    )
    command = [sys.executable, "-c", script, str(place / "out"), str(place / "stored.yaml")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        try:
            assert other.stdout.readline() == "open\n"
            arguments = ["distill", "--config", str(place / "run.yaml"), "--resume", "true"]
            refused(capsys, place, arguments, ["output_dir", "in use"])
        finally:
            other.communicate("\n", timeout=300)


ATTACK = ["--dataset=digits", "--trigger=badnet_sq", "--target=0"]
EVALUATE = [
    ("no data", [], ["dataset", "--dataset"]),
    ("trigger without target", ["--dataset", "digits", "--trigger", "badnet_sq"], ["target", "--target"]),
    ("target without trigger", ["--dataset", "digits", "--target", "0"], ["trigger", "--trigger"]),
    (
        "unknown trigger",
        ["--dataset", "digits", "--trigger", "badnet_sqr", "--target", "0"],
        ["badnet_sqr", "badnet_sq"],
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


@pytest.mark.parametrize(
    ("extra", "expected"), [([], ["output_dir"]), (["--config"], ["--config"]), (["--seed"], ["--seed"])]
)
def test_distill_needs_more(place, capsys, extra, expected):
    refused(capsys, place, ["distill", *extra], expected)


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


def test_the_line_of_a_real_process_stands_alone(place):
    """No log line, warning or progress bar comes with the error, late as it is found."""
    file = write_config(place, {"zskt.attention_weight": 250, "teacher.blocks": ["group3"]})
    before = snapshot(place)
    command = [sys.executable, "-m", "abd_hub", "distill", "--config", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("abd-hub: attention_weight")
    assert done.stderr.count("\n") == 1
    assert snapshot(place) == before
