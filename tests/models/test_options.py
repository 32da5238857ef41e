"""What may be said of a checkpoint is the same in Python, in a configuration and inside of the package."""

import dataclasses
import inspect

import pytest
from app_server import MODELS

from abd_hub import InputError, ModelOptions, load_classifier
from abd_hub.evaluation.measurement import load_model
from abd_hub.hub.pull import MAX_SIZE_GB
from abd_hub.models.preprocessing import Options


def without_default(value):
    return list(value) if isinstance(value, tuple) else value


def defaults(options):
    found = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: without_default(value) for name, value in found.items() if name not in ("id", "source")}


def test_options_and_their_defaults_are_the_same_everywhere():
    wanted = defaults(ModelOptions(id="x"))
    assert defaults(Options(source="x")) == wanted and wanted["max_size_gb"] == MAX_SIZE_GB
    keywords = inspect.signature(load_classifier).parameters.values()
    given = {one.name: without_default(one.default) for one in keywords if one.kind is one.KEYWORD_ONLY}
    assert given == wanted


def test_what_a_configuration_says_reaches_the_classifier():
    options = ModelOptions(
        id=str(MODELS / "plain"),
        num_classes=10,
        labels=[f"no {label}" for label in range(10)],
        mean=[0.25, 0.5, 0.75],
        std=[0.5, 0.25, 0.125],
        input_size=16,
        interpolation="nearest",
        blocks=["group2"],
    )
    found = load_model(options)
    assert (found.spec.height, found.spec.width) == (16, 16) and found.spec.labels[3] == "no 3"
    assert found.mean.flatten().tolist() == options.mean and found.std.flatten().tolist() == options.std
    assert found.interpolation == "nearest" and found.blocks == ("group2",)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"num_classes": 9}, "num_classes: 9 given"),
        ({"revision": "main"}, "revision: 'main' has no meaning"),
        ({"architecture": "nonsense"}, "architecture: 'nonsense' is unknown"),
    ],
)
def test_a_wrong_option_of_a_configuration_is_refused(option, words):
    with pytest.raises(InputError, match=f"^{words}"):
        load_model(ModelOptions(id=str(MODELS / "plain"), **option))


@pytest.mark.parametrize("allow", [False, True])
def test_the_permission_for_pickles_is_passed_on(allow, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    known = {"architecture": "resnet18", "mean": [0.5], "std": [0.5], "input_size": 8, "num_classes": 2}
    with pytest.raises(InputError, match="damaged" if allow else "is a pickle"):
        load_model(ModelOptions(id=str(tmp_path / "x.pth"), allow_pickle=allow, **known))
