"""Whatever is wrong with the configuration of a run is refused."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from bad_inputs import BARE, WEIGHTS, refused, write_config
from safetensors.torch import load_file, save_file
from tiny_teacher import save_teacher

from abd_hub.config.parsing import parse_distill
from abd_hub.core.folder import OutputFolder


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
    case("settings of two methods", "synthesizer", "real and zskt", synthesizer=None, real__share=0.5),
    case(
        "typed settings of another method", "real.share", "set synthesizer to real", extra=["--real.share=1"]
    ),
    case("no such preset", "preset", "cifar10/fast", extra=["--preset=cifar10/fats"]),
    case("no such file", "config", "does not exist", extra=["--config=recipes/none.yaml"]),
    case("a recipe elsewhere", "--preset cifar10/zskt", extra=["--config=elsewhere/cifar10/zskt.yaml"]),
    case("unknown teacher", "resnet81", "did you mean", teacher__id="resnet81"),
    case("no such teacher folder", "absent", "does not exist", teacher__id="local-dir:{tmp}/absent"),
    case("no mean", "teacher.mean", "--teacher.mean", make=no_mean),
    case("no input size", "teacher.input_size", "--teacher.input_size 32", make=no_size),
    case("data of other classes", "evaluation.dataset", "10 classes", "classifier 3", make=three_classes),
    case("class count that is not the teacher's", "num_classes", "4", teacher__num_classes=4),
    case("NaN weights", "fc.bias", "NaN", make=nan_weights),
    case("damaged weights", "weights", "model.safetensors", make=damaged_weights),
    case("pickle without permission", "weights.pth", "allow_pickle", make=a_pickle, **BARE),
    case("bare weights without mean", "--teacher.mean", make=a_pickle, teacher__allow_pickle=True, **WEIGHTS),
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
    case(
        "hints without matching blocks",
        "hint_weight",
        "to 0",
        zskt__hint_weight=1,
        teacher__blocks=["fc"],
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
    ("extra", "expected"),
    [
        ([], ["output_dir and teacher.id", "--output_dir FOLDER --teacher.id MODEL"]),
        (["--config"], ["--config"]),
        (["--preset"], ["--preset", "cifar10/fast-cpu"]),
        (["model", "--output_dir=x", "--seed"], ["--seed"]),
        (["--output_dir=absent", "--resume"], ["resume", "absent", "no unfinished run", "--teacher.id"]),
    ],
)
def test_distill_needs_more(place, capsys, extra, expected):
    refused(capsys, place, ["distill", *extra], expected)
