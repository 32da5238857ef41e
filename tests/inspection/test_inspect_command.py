"""``abd-hub inspect`` and the table of inspections."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from tiny_teacher import save_teacher

from abd_hub import Classifier, InspectionReport, catalog, load_classifier
from abd_hub.cli import main
from abd_hub.commands.inspecting import format_inspection
from abd_hub.config.inspecting import parse_inspect
from abd_hub.core import registry
from abd_hub.core.inspections import FoundTrigger, Inspection
from abd_hub.core.records import DataSpec
from abd_hub.runs.inspect import default_images, read_images

NAMES = [entry.name for entry in catalog("inspections")]
FAST = ["--trigger_inversion.steps=3", "--trigger_inversion.images_per_class=2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Picture files of several sizes and kinds, in a folder and one in it."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for index in range(24):
        chance = torch.Generator().manual_seed(index)
        color, noise = torch.rand(3, generator=chance), torch.rand(9 + index % 3, 8, 3, generator=chance)
        # Noise alone gets one class from the tiny teacher.
        level = (color + 0.3 * noise).clamp(0, 1).round(decimals=1) if index % 2 else color * noise.sqrt()
        place = folder / ("more" if index % 2 else "") / f"{index}.{'png' if index % 3 else 'jpg'}"
        Image.fromarray((level * 255).byte().numpy()).save(place)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_the_plug_ins():
    assert NAMES == ["mm_bd", "trigger_inversion"]
    for entry in catalog("inspections"):
        settings = registry.get("inspections", entry.name)
        assert issubclass(settings, Inspection) and entry.summary
        assert settings() == dataclasses.replace(settings())
        assert settings.citation.startswith("@inproceedings")
        assert settings.unit


def test_on_a_folder(teacher, pictures, tmp_path, capsys):
    out = tmp_path / "inspected"
    command = ["inspect", str(teacher), "--images", str(pictures), "--output_dir", str(out), *FAST]
    assert main(command) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "size of the smallest trigger:"
    assert lines[1].split() == ["class", "label", "mask", "additive", "joint"]
    assert sorted(line.split()[0] for line in lines[3:13]) == list("0123456789")
    assert "stands out" in shown.out or "suspicious" in shown.out
    facts = json.loads((out / "inspection.json").read_text())
    assert facts["name"] == "trigger_inversion" and facts["labels"] == list("0123456789")
    assert len(facts["statistics"]["mask"]) == 10
    drawn = [f"trigger_{t['family']}_{t['label']}.png" for t in facts["triggers"] if t["size"] is not None]
    assert {file.name for file in out.iterdir()} == {"inspection.json", *drawn}
    for name in drawn:
        assert Image.open(out / name).width > 2 * 96
    assert main([*command, "--seed", "1"]) == 0, "an earlier inspection is replaced"


def test_json_without_images(teacher, capsys):
    assert main(["inspect", str(teacher), "--json", *FAST]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "trigger_inversion" and set(facts["scores"]) == {"mask", "additive", "joint"}


def test_mm_bd_by_name(teacher, tmp_path, capsys):
    fast = ["--mm_bd.starts=2", "--mm_bd.steps=2", "--output_dir", str(tmp_path / "out")]
    assert main(["inspect", str(teacher), "--inspection", "mm_bd", *fast]) == 0
    assert "largest margin of logits" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["inspection.json"]


def test_pictures_of_found_triggers(teacher, tmp_path):
    from abd_hub.runs.inspect import write_inspection

    mask = FoundTrigger(3, "mask", 2.0, 9.0, 1.0, mask=torch.ones(1, 8, 8), pattern=torch.rand(3, 8, 8))
    delta = FoundTrigger(3, "additive", 2.0, 9.0, 1.0, delta=torch.rand(3, 8, 8) - 0.5)
    nothing = FoundTrigger(4, "mask", float("inf"), 9.0, 0.0)
    report = InspectionReport(
        "x", True, (3,), {"mask": (2.0,)}, {}, {}, "", 0.0, triggers=(mask, delta, nothing)
    )
    classifier = load_classifier(str(teacher))
    written = write_inspection(report, classifier, tmp_path)
    assert written == ["inspection.json", "trigger_mask_3.png", "trigger_additive_3.png"]
    assert Image.open(tmp_path / written[1]).size == Image.open(tmp_path / written[2]).size
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(nothing(pixels), pixels)
    torch.testing.assert_close(mask(pixels)[0], mask.pattern)
    torch.testing.assert_close(delta(pixels), (pixels + delta.delta).clamp(0, 1))


def test_suspects_come_first():
    sizes = {"mask": (5.0, 1.0, float("inf")), "additive": (3.0, 4.0, 5.0)}
    report = InspectionReport(
        "x", True, (1,), sizes, {"mask": 0.2}, {"mask": 0.6}, "said", 1.0, labels=("a", "b", "c")
    )
    lines = format_inspection(report).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["1", "b", "1", "4", "suspect"],
        ["0", "a", "5", "3"],
        ["2", "c", "-", "5"],
    ]
    assert lines[-1] == "said"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["x", "--inspection", "mmbd"], "inspection: 'mmbd' is unknown; did you mean mm_bd"),
        (["x", "--mm_bd.steps=3"], "mm_bd.steps: '3' is set, but inspection is trigger_inversion"),
        (["x", "--trigger_inversion.steps=0"], "trigger_inversion.steps: must be at least 1, got 0"),
        (["x", "--split", "train"], "split: it belongs to a data set"),
        (["x", "--images", "/nowhere"], ""),
        (["x", "--output_dir", __file__], "output_dir: "),
    ],
)
def test_wrong_arguments(typed, message, capsys):
    assert main(["inspect", *typed]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_examples_of_the_screen(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--help"])
    assert ended.value.code == 0
    examples = capsys.readouterr().out.partition("\nexamples:\n")[2].splitlines()
    assert [parse_inspect(line.split()[2:]).model.id for line in examples] == [
        "hf-hub:org/name",
        "runs/student",
    ]


def test_images_of_every_kind(pictures, monkeypatch):
    color, gray, digits = (
        Classifier(torch.nn.Identity(), DataSpec(*size, ("a", "b")), (0.5,) * size[0], (0.5,) * size[0])
        for size in ((3, 8, 6), (1, 8, 8), (1, 8, 8))
    )
    assert read_images(str(pictures), "test", color).shape == (24, 3, 8, 6)
    assert read_images(str(pictures), "test", gray).shape == (24, 1, 8, 8)
    assert read_images("digits", "test", digits).shape[1:] == (1, 8, 8)
    monkeypatch.setattr("abd_hub.runs.inspect.PATCH_BYTES", 1 << 20)
    large = default_images(DataSpec(1, 256, 256, ("a",)))
    assert large.shape == (16, 1, 256, 256) and large.dtype == torch.uint8
