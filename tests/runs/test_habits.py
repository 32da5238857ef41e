"""A newcomer's commands: a teacher and a folder alone, going on, more rounds, a look before the run."""

import json
import os
import re
import signal

import accelerator_state
import pytest
import yaml
from commands import answer, arguments
from safetensors.torch import load_file
from tiny_teacher import save_teacher

from abd_hub import DataSpec, create_student, load_classifier, parse_distill, save_timm_folder
from abd_hub.cli import main
from abd_hub.learning import progress as shown
from abd_hub.runs.choosing import inspection_seconds, plan_text, with_device, with_teacher
from abd_hub.training import remaining
from abd_hub.training.remaining import Remaining
from abd_hub.training.trainer import Trainer

left = Remaining.left
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("models") / "teacher")


def run(*words):
    code = main(["distill", *map(str, words)])
    accelerator_state.forget()
    return code


def other(folder, architecture, side, channels=3, **args):
    spec = DataSpec(channels, side, side, DIGITS)
    scale = (0.5,) * channels
    made = create_student(architecture, spec, scale, scale, seed=0, model_args=args)
    save_timm_folder(made.eval(), folder)
    return folder


def test_a_teacher_and_a_folder_are_enough(teacher, tmp_path, caplog):
    """The time is short here; 30 minutes is what it says without one."""
    with caplog.at_level("INFO"):
        assert run(teacher, "--output_dir", tmp_path / "student", "--budget=1s", "--purification=none") == 0
    (plan,) = [message for message in caplog.messages if message.startswith("plan: ")]
    assert "becomes wrn_10_1" in plan and "Method ood" in plan and "needs no BatchNorm" in plan
    assert "Defenses: none, so a backdoor of the teacher is handed on." in plan
    assert "neither accuracy nor ASR is measured" in plan
    config = yaml.safe_load((tmp_path / "student" / "config.yaml").read_text())
    assert (config["synthesizer"], config["student"]["architecture"]) == ("ood", "wrn_10_1")
    assert config["trainer"]["mixed_precision"] in ("no", "bf16") and config["ood"]["rounds"] >= 2


@pytest.mark.parametrize(
    ("architecture", "side", "channels", "student", "method", "hints"),
    [
        ("resnet10t", 32, 3, "wrn_16_1", "Ood", 3.0),
        ("vit_tiny_patch16_224", 64, 3, "wrn_16_1", "Ood", 0.0),
        ("resnet10t", 96, 3, "mobilenetv3_small_050", "Ood", 3.0),
        ("wrn_16_2", 32, 1, "wrn_16_1", "Ood", 3.0),
        ("wrn_16_2", 32, 4, "wrn_16_1", "Zskt", 0.0),
    ],
)
def test_what_is_left_open_follows_from_the_teacher(
    tmp_path, architecture, side, channels, student, method, hints
):
    loaded = load_classifier(str(other(tmp_path / "teacher", architecture, side, channels))).freeze()
    asked = parse_distill(["x", "--output_dir=y"])
    config = with_teacher(asked, with_device(asked), loaded)
    assert config.student.architecture == student
    assert (type(config.synthesizer).__name__, config.synthesizer.hint_weight) == (method, hints)
    assert config.synthesizer.attention_weight == 0
    assert config.budget in ("30m", "10m")
    told = plan_text(asked, config, loaded)
    assert f"becomes {student}" in told and config.budget.removesuffix("m") in told


def test_what_is_stated_stays(tmp_path):
    loaded = load_classifier(str(other(tmp_path / "teacher", "wrn_16_2", 32))).freeze()
    stated = ["--student=wrn_40_1", "--fast.rounds=30", "--fast.warmup_rounds=3", "--purification=none"]
    asked = parse_distill(["x", "--output_dir=y", *stated])
    assert with_teacher(asked, with_device(asked), loaded) == asked
    assert "in 30 rounds" in plan_text(asked, asked, loaded)


def test_an_inspection_that_does_not_fit_is_left_out_aloud(tmp_path):
    loaded = load_classifier(str(other(tmp_path / "teacher", "resnet10t", 224))).freeze()
    asked = parse_distill(["x", "--output_dir=y"])
    config = with_teacher(asked, with_device(asked), loaded)
    if with_device(asked).budget == "10m":
        pytest.skip("an accelerator has the time")
    assert config.purification == "none"
    assert "Purification: none, because inspecting 10 classes of this size" in plan_text(
        asked, config, loaded
    )
    assert re.search(r"--budget \d+m includes it", plan_text(asked, config, loaded))
    longer = parse_distill(["x", "--output_dir=y", "--budget=9h"])
    assert with_teacher(longer, with_device(longer), loaded).purification == "auto"


@pytest.mark.parametrize(
    ("budget", "told"), [("99h", "of this time."), ("10s", "so the run ends late; give --budget")]
)
def test_a_plan_says_how_much_of_the_time_the_inspections_take(tmp_path, budget, told):
    loaded = load_classifier(str(other(tmp_path / "teacher", "wrn_16_2", 32))).freeze()
    asked = parse_distill(["x", "--output_dir=y", f"--budget={budget}"])
    config = with_teacher(asked, with_device(asked), loaded)
    if inspection_seconds(loaded.spec) == 0:
        pytest.skip("an accelerator has the time")
    assert config.purification == "auto" and told in plan_text(asked, config, loaded)


@pytest.fixture
def stopped(teacher, tmp_path, monkeypatch):
    """The folder of a run that was stopped after four of its six rounds."""
    original = Trainer._round

    def stopping(trainer, index):
        original(trainer, index)
        if index == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_round", stopping)
    assert run(*arguments(teacher, tmp_path / "run")) == 130
    monkeypatch.undo()
    return tmp_path / "run"


def rounds(folder):
    return json.loads((folder / "metrics.json").read_text())["rounds"]


@pytest.mark.parametrize("words", [["--output_dir", "{}", "--resume"], ["{}", "--resume"]], ids=" ".join)
def test_resume_alone_goes_on(stopped, words):
    before = yaml.safe_load((stopped / "config.yaml").read_text())
    assert run(*(word.format(stopped) for word in words)) == 0
    assert rounds(stopped) == 6
    after = yaml.safe_load((stopped / "config.yaml").read_text())
    assert {key: value for key, value in after.items() if key != "teacher"} == {
        key: value for key, value in before.items() if key != "teacher"
    }


def test_rounds_can_be_raised(stopped, teacher, tmp_path):
    assert run("--output_dir", stopped, "--resume", "--zskt.rounds=9") == 0
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    assert (rounds(stopped), config["planned_rounds"]) == (9, [[0, 6], [4, 9]])
    again = ["--config", stopped / "config.yaml", "--output_dir", tmp_path / "again"]
    assert run(*again, f"--teacher=local-dir:{teacher}") == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (stopped, tmp_path / "again"))
    assert all(first[name].equal(second[name]) for name in first)


def test_rounds_are_not_lowered_and_last_rounds_not_moved(stopped, capsys):
    assert run("--output_dir", stopped, "--resume", "--zskt.rounds=5") == 2
    assert "zskt.rounds: is 5 now and was 6" in (said := capsys.readouterr().err) and "more rounds" in said
    (stopped / "checkpoints" / "round-00000005").mkdir()
    assert run("--output_dir", stopped, "--resume", "--zskt.rounds=9") == 2
    assert "the last 2 rounds of its defenses have begun" in capsys.readouterr().err


def test_the_forecast_changes_no_weight_and_covers_what_follows(teacher, tmp_path, monkeypatch, capsys):
    """The last two of six rounds are the expensive ones, and the measurement follows."""
    monkeypatch.setattr(shown, "EVERY", 0.001)
    assert run(*arguments(teacher, tmp_path / "quiet"), "--evaluation.batch_size=16") == 0
    assert "rounds after" not in (said := capsys.readouterr().err) and "evaluate: " not in said

    monkeypatch.setattr(remaining, "FORECAST_AFTER", 0.0)
    made = []
    monkeypatch.setattr(Remaining, "left", lambda self: made.append(self) or left(self))
    loud = [*arguments(teacher, tmp_path / "loud"), "--trainer.progress=true", "--evaluation.batch_size=16"]
    assert run(*loud) == 0
    said = capsys.readouterr().err
    assert "of 6 rounds after" in said and "left" in said.partition("6 of 6 rounds")[0]
    at_work = re.findall(r"evaluate: .* about 0:(\d\d) left", said)
    assert at_work and max(map(int, at_work)) >= 3, "three seconds for the folder"
    assert {"ordinary", "late"} <= set(made[-1].forecast.rounds) and made[-1].forecast.after > 3
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("quiet", "loud"))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_look_before_a_distillation(teacher, tmp_path, capsys):
    words = arguments(teacher, tmp_path / "out")
    shown = answer(capsys, "distill", *words, "--dry-run")
    assert shown.startswith("plan: teacher (5,166 parameters") and "(6 rounds)." in shown
    assert "on this machine it would take about" in shown and "shuffling_vaccine" in shown
    shown = answer(capsys, "distill", teacher, "--output_dir", tmp_path / "out", "--dry-run")
    assert "30 min" in shown or "10 min" in shown
    assert not (tmp_path / "out").exists()


def test_a_look_before_a_training(tmp_path, capsys):
    words = ["digits", "--output_dir", tmp_path / "out", "--network=wrn_10_1", "--poison.trigger=badnet_sq"]
    shown = answer(capsys, "poison", *words, "--paper.crop_padding=0", "--dry-run")
    assert "badnet_sq on" in shown and "for 200 epochs" in shown and "would take about" in shown
    assert not (tmp_path / "out").exists()
