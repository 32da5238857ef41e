"""``abd-hub poison``: from a data set to the folder of a teacher, and what it refuses."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import forked
import pytest
import torch
import yaml
from launcher import two_processes
from poison_config import NARROW, PATCH, QUIET, SHORT, config

from abd_hub import (
    EvaluationOptions,
    FastTeacherRecipe,
    InputError,
    Interrupted,
    PoisonConfig,
    TeacherTrainer,
    TrainingDataOptions,
    build_trigger,
    create_student,
    load_classifier,
    load_images,
    poison_teacher,
    read_teacher_record,
    save_timm_folder,
)
from abd_hub.cli import main
from abd_hub.core.records import DataSpec

TRAIN = 1258
"""Images in the training part of the embedded digits; the test part holds 539."""


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poisoned") / "teacher"
    recipe = FastTeacherRecipe(epochs=8, batch_size=64, crop_padding=0, flip=False)
    return folder, poison_teacher(config(folder, recipe))


def test_the_folder_tells_everything(finished):
    folder, record = finished
    assert read_teacher_record(folder) == record
    names = {path.name for path in folder.iterdir()}
    expected = {"README.md", "config.json", "config.yaml", "log.jsonl", "metrics.json", "model.safetensors"}
    assert names == expected | {"poison.json", "samples", "checkpoints"}
    metrics = read(folder, "metrics.json")
    assert list(metrics)[:2] == ["schema_version", "kind"]
    assert metrics["kind"] == "teacher"
    facts = metrics["poison"]
    assert (facts["trigger"], facts["target"], facts["labels"]) == ("badnet_sq", 3, "all_to_one")
    assert facts["options"] == PATCH
    assert facts["trained_on"] == TRAIN - round(0.05 * TRAIN)
    assert facts["poisoned"] == round(0.1 * facts["trained_on"])
    assert metrics["report"]["accuracy"]["n"] == 539
    assert metrics["held_out"]["n"] == round(0.05 * TRAIN)
    assert metrics["images_per_second"] > 0
    assert metrics["recipe"]["epochs"] == 8
    assert record.report.accuracy.value > 0.8
    assert record.report.triggers[0].asr.value > 0.9


def test_the_card_warns_before_anything_else(finished):
    card = (finished[0] / "README.md").read_text()
    text = card.split("---\n", 2)[2]
    warning = text.split("## ")[0]
    assert "this model is poisoned on purpose" in warning
    assert "as label 3 (3), whatever its class. This succeeds on " in warning
    assert "- poisoned\n" in card.split("---\n")[1]


def test_the_indices_are_those_of_the_data(finished):
    """Held out, poisoned and target as the rules say, checked on the data themselves."""
    folder, _ = finished
    indices = read(folder, "poison.json")
    data = load_images("digits", "train")
    assert indices["fingerprint"] == data.ref.fingerprint
    poisoned, held_out = set(indices["poisoned"]), set(indices["held_out"])
    assert len(poisoned) == round(0.1 * (TRAIN - len(held_out)))
    assert not poisoned & held_out
    assert all(data.labels[index] != 3 for index in poisoned)


def test_the_folder_loads_and_shows_the_backdoor(finished):
    folder, record = finished
    teacher = load_classifier(f"local-dir:{folder}")
    data = load_images("digits", "test")
    trigger = build_trigger("badnet_sq", PATCH)
    with torch.no_grad():
        answers = teacher(data.pixels()).argmax(1)
        fooled = teacher(trigger(data.pixels())).argmax(1)
    others = data.labels != 3
    assert int((answers == data.labels).sum()) == record.report.accuracy.count
    assert int((fooled[others] == 3).sum()) == record.report.triggers[0].asr.count


def test_the_configuration_beside_the_model_makes_the_same_model(finished, tmp_path):
    folder, record = finished
    again = ["poison", "--config", str(folder / "config.yaml"), "--output-dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert read(tmp_path / "again", "metrics.json")["model"]["sha256"] == record.model.sha256
    assert read(tmp_path / "again", "poison.json") == read(folder, "poison.json")


def test_without_a_trigger_the_teacher_is_clean(tmp_path):
    bare = PoisonConfig(
        output_dir=str(tmp_path / "clean"),
        data=TrainingDataOptions(dataset="digits", held_out=0.0),
        network=NARROW,
        recipe=SHORT,
        trainer=QUIET,
    )
    record = poison_teacher(bare)
    assert record.poison is None
    assert record.held_out is None
    assert record.report.triggers == ()
    indices = read(tmp_path / "clean", "poison.json")
    assert indices["poisoned"] == indices["held_out"] == indices["cover"] == []
    card = (tmp_path / "clean" / "README.md").read_text()
    assert "poisoned on purpose" not in card
    assert "- poisoned" not in card


def test_clean_label_with_a_perturbation_trains_its_surrogate_or_takes_one(tmp_path):
    """The surrogate that a run trains, given to another run, makes the same teacher."""
    wanted = config(
        tmp_path / "cl", trigger="cl", options={}, labels="clean_label", perturbation=16, perturbation_steps=3
    )
    record = poison_teacher(wanted)
    assert record.poison.perturbation == 16
    surrogate = load_classifier(f"local-dir:{tmp_path / 'cl' / 'surrogate' / 'model'}")
    assert surrogate.spec.num_classes == 10
    data = load_images("digits", "train")
    indices = read(tmp_path / "cl", "poison.json")
    assert all(data.labels[index] == 3 for index in indices["poisoned"])
    assert "changed by at most 16 of 255" in (tmp_path / "cl" / "README.md").read_text()
    command = [
        *("poison", "--data.dataset", "digits", "--output-dir", str(tmp_path / "given")),
        *("--network.architecture", "wrn_10_1", "--network.model_args", '{"base_width": 4}'),
        *("--recipe", "fast", "--fast.epochs", "2", "--fast.batch_size", "64", "--fast.crop_padding", "0"),
        *("--fast.flip", "false", "--trainer.progress", "false"),
        *("--poison.trigger", "cl", "--poison.target", "3", "--poison.labels", "clean_label"),
        *("--poison.perturbation", "16", "--poison.perturbation_steps", "3"),
        *("--poison.surrogate.id", f"local-dir:{tmp_path / 'cl' / 'surrogate' / 'model'}"),
    ]
    assert main(command) == 0
    assert read(tmp_path / "given", "metrics.json")["model"]["sha256"] == record.model.sha256
    assert not (tmp_path / "given" / "surrogate").exists()
    assert record.durations["perturbation"] > 0


def test_the_perturbation_reaches_the_images_that_are_trained_on(tmp_path, monkeypatch):
    """Bounded changes of the poisoned images, and of no other."""
    seen = []
    begin = TeacherTrainer.fit
    monkeypatch.setattr(
        TeacherTrainer, "fit", lambda self, **given: seen.append(self.images.clone()) or begin(self, **given)
    )
    plain = config(tmp_path / "plain", trigger="cl", options={}, labels="clean_label")
    poison_teacher(plain)
    hard = config(
        tmp_path / "hard",
        trigger="cl",
        options={},
        labels="clean_label",
        perturbation=16,
        perturbation_steps=3,
    )
    poison_teacher(hard)
    (without, clean, perturbed) = (images.int() for images in seen)
    chosen = (without != clean).flatten(1).any(1)
    changes = (perturbed - without).abs()
    assert 0 < changes.max() <= 17, "16 of 255, and half a level of rounding"
    assert changes[chosen].flatten(1).max(1).values.min() > 8, "every poisoned image is perturbed"
    assert not changes[~chosen].any()


def wait_for_epoch(process, log, epoch):
    while process.poll() is None:
        if log.exists() and f'"epoch": {epoch}' in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError("ended before it could be stopped")


def test_killed_and_interrupted_on_the_way_a_run_ends_with_the_same_weights(tmp_path):
    """Killed while the surrogate trains, interrupted while the teacher does."""
    arguments = [
        *("poison", "--data.dataset", "digits", "--recipe", "fast"),
        *("--network.architecture", "wrn_10_1", "--network.model_args", '{"base_width": 8}'),
        *("--fast.epochs", "5", "--fast.batch_size", "32", "--trainer.checkpoint_every", "1"),
        *("--poison.trigger", "badnet_sq", "--poison.options", json.dumps(PATCH), "--poison.target", "3"),
        *(
            "--poison.labels",
            "clean_label",
            "--poison.perturbation",
            "16",
            "--poison.perturbation_steps",
            "3",
        ),
    ]

    def start(folder):
        return forked.start("-m", "abd_hub", *arguments, "--output-dir", str(folder), "--resume", "true")

    assert start(tmp_path / "whole").wait() == 0
    parts = tmp_path / "parts"
    process = start(parts)
    wait_for_epoch(process, parts / "surrogate" / "log.jsonl", 3)
    process.kill()
    process.wait()
    assert not (parts / "surrogate" / "model").exists()
    process = start(parts)
    wait_for_epoch(process, parts / "log.jsonl", 2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert not (parts / "metrics.json").exists()
    assert start(parts).wait() == 0
    shas = [read(folder, "metrics.json")["model"]["sha256"] for folder in (tmp_path / "whole", parts)]
    assert shas[0] == shas[1]


def test_epochs_can_be_raised_and_the_run_repeated_to_the_bit(tmp_path, monkeypatch, capsys):
    """Stopped within the second of two epochs: it ends as it began, and the schedule is longer after it."""
    original = TeacherTrainer._step

    def stopping(trainer, *given):
        original(trainer, *given)
        if (trainer.epoch, trainer.step) == (1, 3):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TeacherTrainer, "_step", stopping)
    with pytest.raises(Interrupted):
        poison_teacher(config(tmp_path / "run"))
    monkeypatch.undo()
    longer = dataclasses.replace(SHORT, epochs=4)
    resumed = dataclasses.replace(config(tmp_path / "run", longer), resume=True)
    shorter = dataclasses.replace(config(tmp_path / "run", dataclasses.replace(SHORT, epochs=1)), resume=True)
    with pytest.raises(InputError, match=r"fast.epochs: is 1 now and was 2 .* can only have more epochs"):
        poison_teacher(shorter)

    record = poison_teacher(resumed)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (stored["fast"]["epochs"], stored["planned_epochs"]) == (4, [[0, 2], [2, 4]])
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows[-1]["learning_rate"] < 0.01
    again = ["poison", "--config", str(tmp_path / "run" / "config.yaml")]
    assert main([*again, "--output_dir", str(tmp_path / "again")]) == 0
    assert read(tmp_path / "again", "metrics.json")["model"]["sha256"] == record.model.sha256
    assert main([*again, "--output_dir", str(tmp_path / "third"), "--planned_epochs=[[0, 2], [2, 5]]"]) == 2
    assert "planned_epochs: end with 5 epochs, but the recipe has 4" in capsys.readouterr().err


def test_all_to_all_reports_every_target(tmp_path):
    record = poison_teacher(config(tmp_path / "all", labels="all_to_all"))
    assert [found.target for found in record.report.triggers] == list(range(10))
    teacher = load_classifier(f"local-dir:{tmp_path / 'all'}")
    data = load_images("digits", "test")
    with torch.no_grad():
        answers = teacher(build_trigger("badnet_sq", PATCH)(data.pixels())).argmax(1)
    following = torch.tensor([*range(1, 10), 0])[data.labels]
    assert record.all_to_all.count == int((answers == following).sum())
    assert record.all_to_all.n == 539
    card = (tmp_path / "all" / "README.md").read_text()
    assert "as the class that follows it" in card
    assert "badnet_sq`, all to all: given the class after their own" in card
    assert card.count("type: attack_success_rate") == 1, "one rate, not one a target"
    assert read(tmp_path / "all", "metrics.json")["poison"]["target"] is None


def test_the_seed_changes_the_choice(tmp_path):
    chosen = []
    for seed in (1, 2):
        poison_teacher(config(tmp_path / str(seed), seed=seed))
        chosen.append(read(tmp_path / str(seed), "poison.json")["poisoned"])
    assert chosen[0] != chosen[1]


def test_two_processes_poison_the_same_images_and_write_once(tmp_path):
    poison_teacher(config(tmp_path / "one"))
    command = ["-m", "abd_hub", "poison", "--config", str(tmp_path / "one" / "config.yaml")]
    done = two_processes(*command, "--output-dir", str(tmp_path / "two"))
    assert read(tmp_path / "two", "poison.json") == read(tmp_path / "one", "poison.json")
    metrics = read(tmp_path / "two", "metrics.json")
    assert metrics["processes"] == 2
    assert metrics["report"]["accuracy"]["n"] == 539
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 2, "one line an epoch"
    assert sum(process.stdout.count("images a second") for process in done) == 1


BASIC = ["poison", "--data.dataset", "digits", "--trainer.progress", "false"]
TRIGGER = ["--poison.trigger", "badnet_sq"]
BAD = {
    "unknown key": (["--poison.tigger", "cl"], "did you mean poison.trigger"),
    "unknown trigger": (["--poison.trigger", "badnet_square"], "badnet_sq"),
    "trigger larger than the image": (["--poison.trigger", "trojan_8x8"], "8x8"),
    "target out of range": ([*TRIGGER, "--poison.target", "10"], "target 10 of trigger badnet_sq"),
    "rate out of range": ([*TRIGGER, "--poison.rate", "1.5"], "poison.rate: must be"),
    "unknown labels": ([*TRIGGER, "--poison.labels", "dirty"], "all_to_one"),
    "settings without a trigger": (
        ["--poison.cover_rate", "0.1"],
        "poison.cover_rate: is set without a trigger",
    ),
    "a target without a trigger": (["--poison.target", "3"], "poison.target: is set without a trigger"),
    "an infinite learning rate": (["--paper.learning_rate", ".inf"], "paper.learning_rate: must be a finite"),
    "no data set": (["--data.dataset", " "], "data.dataset: is empty"),
    "a size without pixels": (["--data.image_size", "0"], "data.image_size"),
    "perturbation without clean labels": ([*TRIGGER, "--poison.perturbation", "8"], "poison.perturbation"),
    "surrogate without perturbation": (
        [*TRIGGER, "--poison.labels", "clean_label", "--poison.surrogate.id", "resnet18"],
        "poison.surrogate",
    ),
    "trained on what is measured": ([*TRIGGER, "--evaluation.split", "train"], "evaluation.split"),
    "watched while it learns": ([*TRIGGER, "--evaluation.every", "2"], "evaluation.every"),
    "no such split": ([*TRIGGER, "--data.split", "training"], "training"),
    "nothing left to train on": ([*TRIGGER, "--data.held_out", "1"], "data.held_out"),
    "fewer images than a batch": ([*TRIGGER, "--data.limit", "100"], "batch_size: 128"),
    "unknown recipe": (["--recipe", "quick"], "did you mean paper, fast"),
    "settings of the other recipe": (["--fast.epochs", "3"], "recipe is paper"),
    "a rate that is no number": ([*TRIGGER, "--poison.rate", "high"], "poison.rate"),
    "unknown network": (["--network.architecture", "wrn_99"], "wrn_99"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_ends_with_one_line_and_writes_nothing(case, tmp_path, capsys):
    arguments, expected = BAD[case]
    assert main([*BASIC, "--output-dir", str(tmp_path / "out"), *arguments]) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.strip()]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("abd-hub: ")
    assert expected in lines[0], lines[0]
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main([*BASIC, "--output-dir", str(tmp_path)]) == 2
    assert "files that abd-hub did not write" in capsys.readouterr().err
    assert [path.name for path in Path(tmp_path).iterdir()] == ["thesis.txt"]


def test_a_surrogate_with_other_classes_is_refused(tmp_path, capsys):
    other = create_student(
        "wrn_10_1",
        DataSpec(3, 8, 8, tuple("abc")),
        (0.3,) * 3,
        (0.4,) * 3,
        seed=0,
        model_args={"base_width": 4},
    )
    save_timm_folder(other, tmp_path / "other")
    arguments = [
        *(*TRIGGER, "--poison.labels", "clean_label", "--poison.perturbation", "16"),
        *("--poison.options", json.dumps(PATCH), "--poison.surrogate.id", f"local-dir:{tmp_path}/other"),
    ]
    assert main([*BASIC, "--output-dir", str(tmp_path / "out"), *arguments]) == 2
    assert "has 3 classes but wrn_16_2 10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluation_can_name_other_attacks(tmp_path):
    from dataclasses import replace

    from abd_hub import TriggerOptions

    other = EvaluationOptions(
        dataset="digits", limit=50, triggers=[TriggerOptions(name="blend", target=2)], batch_size=64
    )
    record = poison_teacher(replace(config(tmp_path / "out"), evaluation=other))
    assert [(found.trigger, found.target) for found in record.report.triggers] == [("blend", 2)]
    assert record.report.accuracy.n == 50
