"""A run with a budget in minutes: it ends in time, goes on after a stop, and repeats from its config.yaml."""

import json
import os
import signal
import time

import accelerator_state
import nets
import pytest
import torch
import yaml
from commands import arguments
from safetensors.torch import load_file
from tiny_teacher import save_teacher

from abd_hub import TrainerOptions
from abd_hub.cli import main
from abd_hub.runs import budget
from abd_hub.training.trainer import Trainer

BUDGET = 6
"""Seconds of a run on a quiet machine."""


@pytest.fixture(scope="module", autouse=True)
def _quick_end():
    """All modules are imported here, so that the end of a run takes less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "FINISH_SECONDS", 0.5)
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("models") / "teacher")


def run(teacher, folder, *more):
    code = main(["distill", *arguments(teacher, folder), *more])
    accelerator_state.forget()
    return code


def record(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def seconds(teacher, tmp_path_factory):
    """A budget: more where many tests run at once, by the time of a run of six rounds."""
    began = time.monotonic()
    assert run(teacher, tmp_path_factory.mktemp("runs") / "usual") == 0
    return max(BUDGET, round(4 * (time.monotonic() - began)))


@pytest.fixture(scope="module")
def finished(teacher, seconds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "student"
    assert run(teacher, folder, f"--budget={seconds}s") == 0
    return folder


def test_a_run_ends_with_its_budget(finished, seconds):
    """The tolerance is for machines on which many tests run at once."""
    durations = record(finished)["durations"]
    assert durations["budget"] == seconds
    assert 0.6 * seconds < durations["spent"] < 1.4 * seconds
    assert record(finished)["rounds"] > 6, "the file's own rounds take a second"


def test_all_numbers_are_in_the_finished_configuration(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    rounds = config["zskt"]["rounds"]
    assert config["budget"] is None and rounds == record(finished)["rounds"]
    pairs = config["planned_rounds"] or [[0, rounds]]
    assert pairs[-1][1] == rounds
    assert config["self_retrospection"]["last_rounds"] < pairs[0][1]
    changes = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    told = [[row["round"], row["planned_rounds"]] for row in changes if "planned_rounds" in row]
    assert [pair for pair in told if pair[0]] == config["planned_rounds"][1:]


def test_the_finished_configuration_repeats_the_run_to_the_bit(finished, teacher, tmp_path):
    again = ["--config", str(finished / "config.yaml"), f"--output-dir={tmp_path / 'again'}"]
    code = main(["distill", *again, f"--teacher.id=local-dir:{teacher}"])
    accelerator_state.forget()
    assert code == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "again"))
    assert all(first[name].equal(second[name]) for name in first)
    assert "budget" not in record(tmp_path / "again")["durations"]


def test_the_choice_is_told_before_the_first_round(teacher, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert run(teacher, tmp_path / "short", "--budget=1s") == 0
    said = [message for message in caplog.messages if message.startswith("budget: ")]
    assert "so that 2 rounds fit: zskt.rounds 2, " in said[0]
    assert "budget: 1s is too short: even 2 rounds take about" in said[1]


def test_a_stopped_run_keeps_its_choice_and_its_time(teacher, seconds, tmp_path, monkeypatch):
    original = Trainer._round

    def stopped(trainer, index):
        original(trainer, index)
        if index == 3 and trainer.method.rounds != budget.MANY:
            os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "stopped"
    monkeypatch.setattr(Trainer, "_round", stopped)
    assert run(teacher, folder, f"--budget={seconds}s") == 130
    monkeypatch.undo()
    chosen = json.loads((folder / "budget.json").read_text())
    assert run(teacher, folder, f"--budget={seconds}s", "--resume=true") == 0
    assert json.loads((folder / "budget.json").read_text()) == chosen
    found = record(folder)
    assert chosen["limit"]["earlier"] < found["durations"]["spent"] < 1.5 * seconds
    assert found["config"]["zskt"]["batch_size"] == 8


def test_a_budget_that_changes_is_refused_on_resume(teacher, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    assert main(["distill", *arguments(teacher, folder), "--print-config", "--budget=15s"]) == 0
    (folder / "config.yaml").write_text("# abd-hub run\n" + capsys.readouterr().out)
    assert run(teacher, folder, "--budget=16s", "--resume=true") == 2
    assert "budget: is '16s' now and was '15s'" in capsys.readouterr().err


class Waiting(torch.nn.Module):
    """A network whose pass takes so many seconds."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.classes = torch.nn.Linear(3, len(nets.SPEC.labels))

    def forward(self, x):
        time.sleep(self.seconds)
        return self.classes(x.mean((2, 3)))


def test_time_is_kept_for_the_inspection_of_a_slower_student():
    teacher, student = (nets.plain(Waiting(seconds), torch.float32) for seconds in (0.02, 0.1))
    report = {"changed": False, "inspected": {"seconds": 10.0}, "reinspected": None}
    assert 25 < budget.student_inspection_seconds(report, [teacher, student], TrainerOptions()) < 100
    assert student.training and all(weight.grad is None for weight in student.parameters())
    for nothing in (None, report | {"changed": True}):
        assert budget.student_inspection_seconds(nothing, [teacher, student], TrainerOptions()) == 0
