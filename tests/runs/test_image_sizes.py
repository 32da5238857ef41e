"""Commands and runs on pictures of several sizes, with the trigger on the image or on the input."""

from __future__ import annotations

import dataclasses
import json

import accelerator_state
import noise_pictures
import numpy as np
import pytest
import torch
from commands import answer
from PIL import Image
from poison_config import config
from tiny_teacher import save_teacher

from abd_hub import (
    DataSpec,
    DistillConfig,
    EvaluationOptions,
    InputError,
    ModelOptions,
    Real,
    StudentOptions,
    TrainerOptions,
    TrainingDataOptions,
    TriggerOptions,
    Zskt,
    create_student,
    distill,
    load_classifier,
    load_images,
    poison_teacher,
    read_record,
    save_timm_folder,
)
from abd_hub.cli import main
from abd_hub.evaluation.measurement import load_measurement
from abd_hub.evaluation.shown import shown_at_once
from abd_hub.report.figures import save_verdicts
from abd_hub.runs.verdicts import write_verdicts

ATTACK = ["--trigger", "badnet_sq", "--target", "1", "--trigger-options", "{size: 2, margin: 0}"]
SQUARE = [TriggerOptions(name="badnet_sq", target=1, options={"size": 2, "margin": 0})]
SIZES = [(20, 30), (33, 17), (24, 24), (30, 20)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A network of 8x8 pixels that sees the middle half of an image."""
    folder = save_teacher(tmp_path_factory.mktemp("models") / "teacher")
    told = json.loads((folder / "config.json").read_text())
    assert (told["pretrained_cfg"]["crop_pct"], told["pretrained_cfg"]["crop_mode"]) == (1.0, "center")
    told["pretrained_cfg"]["crop_pct"] = 0.5
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty pictures of four sizes in ten classes, as a folder of images."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    for split in ("train", "test"):
        for index in range(20):
            place = folder / split / str(index % 10)
            place.mkdir(parents=True, exist_ok=True)
            noise_pictures.save(
                place / f"{index}.png", *SIZES[index % 4], seed=index + 50 * (split == "test")
            )
    return folder


def test_evaluate_prepares_each_picture_at_its_own_size(teacher, pictures, capsys):
    found = json.loads(answer(capsys, "evaluate", teacher, "--dataset", pictures, "--json"))
    model = load_classifier(str(teacher))
    right = 0
    for file in sorted((pictures / "test").rglob("*.png")):
        picture = Image.open(file)
        # The shorter side becomes 16, and the middle of 8x8 is cut out.
        short = min(picture.size)
        side = [int(16 * length / short) for length in picture.size]
        left, top = (round((length - 8) / 2) for length in side)
        small = picture.resize(side, Image.Resampling.BILINEAR).crop((left, top, left + 8, top + 8))
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        right += int(model(pixels).argmax()) == int(file.parent.name)
    assert found["accuracy"]["n"] == 20 and abs(found["accuracy"]["count"] - right) <= 1  # by rounding

    squashed = answer(capsys, "evaluate", teacher, "--dataset", pictures, "--image-size", 8, "--json")
    assert json.loads(squashed)["accuracy"]["n"] == 20


def test_the_place_of_the_trigger_is_chosen_and_told(teacher, pictures, capsys):
    def measured(*more):
        command = ["evaluate", teacher, "--dataset", pictures, *ATTACK, *more]
        (report,) = json.loads(answer(capsys, *command, "--json"))["triggers"]
        return report["trigger_on"], report["asr"]["count"], report["robust_accuracy"]["count"]

    assert measured()[0] == "image" and measured("--trigger-on", "input")[0] == "input"
    assert "badnet_sq, on input" in answer(
        capsys, "evaluate", teacher, "--dataset", pictures, *ATTACK, "--trigger-on", "input"
    )
    assert main(["evaluate", str(teacher), "--dataset", "digits", "--trigger-on", "paper"]) == 2


@pytest.mark.parametrize("place", ["image", "input"])
def test_pictures_show_what_the_model_reads(teacher, pictures, place, tmp_path, monkeypatch):
    model = load_classifier(str(teacher))
    options = EvaluationOptions(dataset=str(pictures), triggers=SQUARE, trigger_on=place)
    measurement = load_measurement(options, model)
    drawn = []
    monkeypatch.setattr(
        "abd_hub.runs.verdicts.save_verdicts", lambda *given: drawn.append(given) or save_verdicts(*given)
    )
    ((file, _),) = write_verdicts(tmp_path, measurement, {"teacher": model})

    assert (tmp_path / file).is_file()
    ((clean, triggered, rows, _, target, _),) = drawn
    assert target == model.spec.labels[1]
    assert clean.shape == triggered.shape == (6, 3, 8, 8)
    corner = triggered[..., -2:, -2:]
    assert bool((corner == 1).all()) is (place == "input"), "a corner of the image is cropped away"
    shown = measurement.data.images[torch.nonzero(measurement.data.labels != 1).flatten()[:6]]
    assert torch.equal(clean, shown_at_once(model, shown))
    names = [model.spec.labels[label] for label in model(triggered).argmax(1).tolist()]
    assert rows["teacher"][1] == names


def test_a_student_gets_its_teachers_crop_and_the_record_the_triggers_place(teacher, pictures, tmp_path):
    evaluation = EvaluationOptions(dataset=str(pictures), triggers=SQUARE, trigger_on="input")
    method = Zskt(rounds=1, batch_size=4, student_steps=1, generator_channels=8, attention_weight=0)
    made = DistillConfig(
        output_dir=str(tmp_path / "run"),
        teacher=ModelOptions(id=str(teacher)),
        student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
        synthesizer=method,
        purification="none",
        evaluation=evaluation,
        trainer=TrainerOptions(progress=False, checkpoint_every=0),
    )
    distill(made)
    accelerator_state.forget()
    assert load_classifier(str(tmp_path / "run")).view == load_classifier(str(teacher)).view
    record = read_record(tmp_path / "run")
    assert [report.triggers[0].trigger_on for report in (record.teacher_report, record.student_report)] == [
        "input",
        "input",
    ]
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "on the network's input to label 1" in card

    real = Real(rounds=1, dataset=str(pictures), batch_size=4, student_steps=1, attention_weight=0)
    with pytest.raises(InputError, match=r"images: have several sizes, .* set the synthesizer's image_size"):
        distill(dataclasses.replace(made, output_dir=str(tmp_path / "real"), synthesizer=real))
    accelerator_state.forget()
    squashed = dataclasses.replace(real, image_size=8)
    distill(dataclasses.replace(made, output_dir=str(tmp_path / "real"), synthesizer=squashed))
    accelerator_state.forget()


def test_a_gray_teacher_learns_and_is_measured_on_color(tmp_path):
    spec = DataSpec(1, 8, 8, tuple("0123456789"))
    made = create_student("wrn_10_1", spec, [0.3], [0.4], seed=3, model_args={"base_width": 4}).eval()
    save_timm_folder(made, tmp_path / "teacher")
    record = distill(
        DistillConfig(
            output_dir=str(tmp_path / "run"),
            teacher=ModelOptions(id=str(tmp_path / "teacher")),
            student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
            synthesizer=Real(rounds=1, dataset="digits", batch_size=8, student_steps=1, attention_weight=0),
            purification="none",
            evaluation=EvaluationOptions(dataset="digits", triggers=SQUARE, limit=50),
            trainer=TrainerOptions(progress=False, checkpoint_every=0),
        )
    )
    accelerator_state.forget()
    data = load_images("digits", "test", limit=50)
    right = (made(data.pixels()[:, :1]).argmax(1) == data.labels).sum()
    assert record.teacher_report.accuracy.count == int(right)


def test_a_teacher_to_train_needs_one_size(pictures, tmp_path):
    data = TrainingDataOptions(dataset=str(pictures), split="train")
    made = dataclasses.replace(config(tmp_path / "run"), data=data)
    with pytest.raises(InputError, match=r"several sizes, such as .*; set data\.image_size, which squashes"):
        poison_teacher(made)
    accelerator_state.forget()
