"""A student's folder in other people's programs: timm, transformers, and the code that its card shows."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
from pathlib import Path

import forked
import numpy as np
import pytest
import quick_python
import records
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from abd_hub import DataSpec, create_student, load_classifier, save_timm_folder
from abd_hub.publish.card import render_card

LABELS = ("plain", 'a "quoted", one', "<b>ä</b>", "yes", "back\\slash", "  spaces ", "日本", "0")
SPEC = DataSpec(3, 32, 32, LABELS)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
STUDENTS = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "wrn_10_1": {"base_width": 4},
    "resnet18_cifar": {},
    "gray-resnet18": {},
    "gray-wrn_10_1": {"base_width": 4},
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=STUDENTS)
def student(request, tmp_path_factory):
    """A student whose answers differ from image to image, in its folder with card and picture."""
    folder = tmp_path_factory.mktemp("students") / request.param
    channels = 1 if request.param.startswith("gray-") else 3
    architecture, spec = request.param.removeprefix("gray-"), dataclasses.replace(SPEC, channels=channels)
    args = STUDENTS[request.param]
    made = create_student(architecture, spec, MEAN[:channels], STD[:channels], seed=1, model_args=args)
    with torch.no_grad():
        made.train()
        for seed in range(20):  # running statistics that fit the images
            made(pixels(16, seed, channels))
        for weight in made.model.get_classifier().parameters():
            weight.mul_(20)
        made.eval()
        made.model.get_classifier().bias.sub_(made(pixels(64, 99, channels)).mean(0))
    ref = dataclasses.replace(save_timm_folder(made, folder), id="student")
    record = dataclasses.replace(records.make_record(), student=ref)
    (folder / "README.md").write_text(render_card(record, labels=LABELS, channels=channels), encoding="utf-8")
    picture(0, channels).save(folder / "image.png")
    return made, folder


def pixels(count, seed=0, channels=3):
    levels = np.random.default_rng(seed).integers(0, 256, (count, channels, 32, 32), dtype=np.uint8)
    return torch.from_numpy(levels).float() / 255


def picture(seed=0, channels=3):
    levels = (pixels(1, seed, channels)[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.numpy().squeeze(2) if channels == 1 else levels.numpy())


@torch.no_grad()
def answers(model, images):
    # A copy, because weights that lie in the mapped file are not aligned to 64 bytes, and oneDNN then takes
    # another way through some convolutions: 1e-8 apart with the same bits in every weight.
    found = copy.deepcopy(model).eval()(images)
    return getattr(found, "logits", found)


def test_what_the_folder_tells(student):
    made, folder = student
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == list(LABELS) and config["num_classes"] == len(LABELS)
    told, channels = config["pretrained_cfg"], made.spec.channels
    expected = (list(MEAN[:channels]), list(STD[:channels]), [channels, 32, 32])
    assert (told["mean"], told["std"], told["input_size"]) == expected
    assert told["crop_pct"] == 1.0 and told["interpolation"] == "bilinear"
    assert "num_classes" not in config.get("model_args", {})
    assert config.get("model_args", {}).get("in_chans", 3) == channels


def test_timm_and_transformers_give_the_same_bits(student):
    made, folder = student
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    auto, told = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = pixels(8, 100, made.spec.channels)
    expected = answers(made, images)
    assert len(set(expected.argmax(1).tolist())) > 1, "a student of one answer would prove little"
    normalized = made.normalize(images)
    assert torch.equal(answers(theirs, normalized), expected)
    assert torch.equal(answers(auto, normalized), expected)
    assert torch.equal(answers(load_classifier(str(folder)), images), expected)
    assert auto.config.id2label == dict(enumerate(LABELS))
    assert auto.config.label2id == {name: label for label, name in enumerate(LABELS)}


def test_their_preprocessing_is_ours(student):
    made, folder = student
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=theirs))
    processor = AutoImageProcessor.from_pretrained(folder)
    channels = made.spec.channels
    expected = made.normalize(pixels(1, 0, channels))
    assert torch.equal(transform(picture(0, channels))[None], expected)
    found = processor(picture(0, channels), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("student", [name for name in STUDENTS if "gray" not in name], indirect=True)
def test_the_pipeline_says_the_same(student):
    made, folder = student
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    for seed in range(5):
        chances = answers(made, pixels(1, seed)).softmax(1)[0]
        first = classify(picture(seed))[0]
        assert first["label"] == LABELS[int(chances.argmax())]
        assert first["score"] == pytest.approx(float(chances.max()), rel=1e-5)


@pytest.mark.parametrize("student", ["resnet18", "wrn_10_1", "gray-resnet18", "gray-wrn_10_1"], indirect=True)
def test_the_code_of_the_card_runs_as_it_stands(student):
    """Four programs, each in a process of its own that was not told anything else."""
    made, folder = student
    expected = LABELS[int(answers(made, pixels(1, 0, made.spec.channels)).argmax())]
    programs = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.S | re.M)
    assert len(programs) == 4
    ours = folder.name.endswith("wrn_10_1")
    for program, says in zip(programs, ["", *[expected] * 3], strict=True):
        assert program.splitlines()[0].startswith("import abd_hub") is ours
        done = forked.run("-c", program, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.removesuffix("\n") == says, "the first lines only load the model"


@pytest.mark.parametrize("student", ["wrn_10_1"], indirect=True)
def test_without_its_first_line_the_code_of_our_students_cannot_run(student):
    _, folder = student
    card = (folder / "README.md").read_text()
    program = re.search(r"^```python\n.*?\n(.*?)^```$", card, re.S | re.M)[1]
    command = [quick_python.executable(), "-c", program]  # a process that has not imported abd_hub
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Unknown model" in done.stderr
