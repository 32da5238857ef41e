"""One file that runs elsewhere: it gives the classifier's answers, or it is not there."""

import json
import subprocess

import nets
import numpy as np
import pytest
import quick_python
import timm
import torch
from missing import needs_onnx
from torch import nn

from abd_hub import Classifier, DataSpec, InputError, create_student, export_model, load_classifier
from abd_hub.cli import main
from abd_hub.commands import sharing
from abd_hub.models.saving import save_timm_folder
from abd_hub.runs import export

FORMATS = ["torch-export", pytest.param("onnx", marks=needs_onnx)]
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx"}
LABELS = tuple("abcd")


def answer(file, pixels):
    if file.suffix == ".pt2":
        return torch.export.load(file).module()(pixels).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def vit():
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **size)
    return Classifier(model, DataSpec(3, 16, 16, LABELS), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


NETWORKS = {
    "residual": lambda: create_student("wrn_10_1", DataSpec(3, 8, 8, LABELS), (0.3,) * 3, (0.4,) * 3, seed=0),
    "gray": lambda: create_student("wrn_10_1", DataSpec(1, 8, 8, LABELS), (0.3,), (0.4,), seed=0),
    "two channels": lambda: create_student(
        "wrn_10_1", DataSpec(2, 8, 8, LABELS), (0.3,) * 2, (0.4,) * 2, seed=0
    ),
    "transformer": vit,
}


ROWS = [(name, "torch-export") for name in NETWORKS]
ROWS += [pytest.param(name, "onnx", marks=needs_onnx) for name in ("residual", "transformer")]


@pytest.mark.parametrize(("network", "format"), ROWS)
def test_the_file_gives_the_classifiers_answers(network, format, tmp_path, monkeypatch):
    classifier = nets.randomized(NETWORKS[network]()).freeze()
    monkeypatch.setattr(export, "load_classifier", lambda source: classifier)
    file = tmp_path / f"model{SUFFIX[format]}"
    done = export_model("any", file, format)
    assert done.input == (classifier.spec.channels, classifier.spec.height, classifier.spec.width)
    assert (done.classes, done.images, done.bytes) == (4, 64, file.stat().st_size)
    assert done.largest_difference < 1e-4
    assert list(tmp_path.iterdir()) == [file]
    for count in (1, 2, 7):
        pixels = torch.rand(count, *done.input)
        torch.testing.assert_close(answer(file, pixels), classifier(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_channels_in_reverse_order(format, tmp_path, monkeypatch):
    network = nets.randomized(nets.wrn(base_width=4))
    classifier = Classifier(
        network.model, network.spec, (0.1, 0.5, 0.7), (0.2, 0.3, 0.4), flip_channels=True
    ).freeze()
    monkeypatch.setattr(export, "load_classifier", lambda source: classifier)
    file = tmp_path / f"model{SUFFIX[format]}"
    export_model("any", file, format)
    pixels = torch.rand(3, *file_input(classifier))
    torch.testing.assert_close(answer(file, pixels), classifier(pixels), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answer(file, pixels.flip(1)), classifier(pixels), rtol=1e-2)


def file_input(classifier):
    return classifier.spec.channels, classifier.spec.height, classifier.spec.width


def test_the_command_offers_all_formats():
    assert {name: row[0] for name, row in export.FORMATS.items()} == sharing._SUFFIXES


@pytest.fixture
def folder(tmp_path):
    save_timm_folder(nets.randomized(NETWORKS["residual"]()).freeze(), tmp_path / "student")
    return tmp_path / "student"


ALONE = """
import json, sys, torch
labels = {"labels": ""}
program = torch.export.load(sys.argv[1], extra_files=labels)
logits = program.module()(torch.full((3, 3, 8, 8), 0.25))
assert not any(name.split(".")[0] in ("abd_hub", "timm") for name in sys.modules)
print(json.dumps([json.loads(labels["labels"]), logits.tolist()]))
"""


def test_it_runs_without_this_package(folder, tmp_path, capsys):
    file = tmp_path / "student.pt2"
    assert main(["export", str(folder), str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "torch-export" and facts["input"] == [3, 8, 8]
    command = [quick_python.executable(), "-c", ALONE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels, logits = json.loads(done.stdout.splitlines()[-1])
    assert labels == list(LABELS)
    expected = load_classifier(str(folder))(torch.full((3, 3, 8, 8), 0.25)).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@needs_onnx
def test_an_onnx_file_names_its_classes(folder, tmp_path, capsys):
    import onnx

    file = tmp_path / "student.onnx"
    assert main(["export", str(folder), str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"wrote {file}: ") and said[0].endswith("pixels 3x8x8 in [0, 1]")
    assert "64 patches of photographs" in said[1] and len(said) == 2
    facts = {one.key: one.value for one in onnx.load(file).metadata_props}
    assert json.loads(facts["labels"]) == list(LABELS)
    assert facts["input"] == "pixels in [0, 1], (N, 3, 8, 8)"


class Refusing(nn.Module):
    """Stands for what no exporter can follow; which that is changes with the version of torch."""

    def forward(self, pixels):
        if torch.compiler.is_exporting():
            raise RuntimeError("cannot\nbe traced")
        return pixels.mean((2, 3))


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_exported_leaves_the_old_file(format, tmp_path, monkeypatch):
    classifier = Classifier(Refusing(), DataSpec(3, 8, 8, tuple("rgb")), (0.5,) * 3, (0.2,) * 3).freeze()
    monkeypatch.setattr(export, "load_classifier", lambda source: classifier)
    file = tmp_path / f"model{SUFFIX[format]}"
    file.write_text("old")
    with pytest.raises(InputError, match=r"format: this network cannot be exported .*cannot be traced"):
        export_model("any", file, format)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_with_other_answers_is_not_kept(format, folder, tmp_path, monkeypatch):
    suffix, write, ask = export.FORMATS[format]
    monkeypatch.setitem(export.FORMATS, format, (suffix, write, lambda *given: 1.01 * ask(*given)))
    file = tmp_path / f"model{suffix}"
    with pytest.raises(InputError, match="answers differently by"):
        export_model(str(folder), file, format)
    assert not file.exists() and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["x.tflite"], "FILE: x.tflite must end in .pt2"),
        (["x.pt2", "--format", "onnx"], "FILE: x.pt2 must end in .onnx"),
        (["nowhere/x.pt2"], "FILE: there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(more, words, folder, capsys, monkeypatch):
    monkeypatch.setattr(export, "load_classifier", None)
    assert main(["export", str(folder), *more]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_onnx_without_its_packages(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx needs onnx, onnxscript, onnxruntime; run pip install"):
        export_model(str(folder), tmp_path / "x.onnx", "onnx")
    with pytest.raises(InputError, match="format: must be torch-export or onnx, got 'tflite'"):
        export_model(str(folder), tmp_path / "x.tflite", "tflite")
