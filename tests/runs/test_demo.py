"""The demo as a new user runs it, but for half of its rounds and less, without a network."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import quick_python
import timm
import torch

import abd_hub.students  # noqa: F401  (registers the architectures)
from abd_hub import read_record
from abd_hub.cli import main
from abd_hub.publish.uploads import read_upload
from abd_hub.runs.demo import OTHER
from abd_hub.runs.finishing import FEWEST_POINTS

ROOT = Path(__file__).parents[2]
ROUNDS = {"plain": 40, "auto": 40, "abd": 60, "vaccine": 4, "clean_kd": 20}
"""In the place of 400: the backdoor is handed over early, and nothing tests a number of ``vaccine``."""
DEMO = f"""
import sys
from abd_hub.cli import main
from abd_hub.runs import demo

for name, settings in demo.STUDENTS.items():
    method = settings["synthesizer"]
    settings[method] = settings[method] | {{"rounds": {ROUNDS}[name]}}
demo.CHILD = "short_inspection"
sys.exit(main())
"""
NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise OSError("the demo must not use the network")

socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo that is stopped once its first two students are there, and then started again."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "blocked").mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(NO_NETWORK)
    path = os.pathsep.join([str(folder / "blocked"), str(ROOT / "tests" / "support")])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    words = ["demo", "--output-dir", str(folder / "out"), "--seed", "0"]
    command = [quick_python.executable(), "-c", DEMO, *words]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not (folder / "out" / "plain" / "metrics.json").exists():
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[1]
    assert first.returncode == 130, said[-2000:]
    assert "interrupted; repeat the command to go on" in said
    kept = made(folder / "out")
    assert {"teacher", "clean_kd", "plain"} <= set(kept) and "auto" not in kept

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    again = made(folder / "out")
    assert {name: again[name] for name in kept} == kept, "what was finished is not done again"
    return folder / "out", done.stdout


def made(out):
    """When each finished model of a demo was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("*/metrics.json")}


def test_plain_distillation_hands_the_backdoor_over_and_abd_does_not(demo):
    out, _ = demo
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["students"]) == ["plain", "auto", "abd", "vaccine", "clean_kd"]
    assert summary["teacher"]["asr"] > 0.9
    plain, abd = summary["students"]["plain"], summary["students"]["abd"]
    assert plain["asr"] >= 0.6
    assert abd["asr"] <= plain["asr"] / 2
    assert abd["accuracy"] >= plain["accuracy"] - 0.08
    assert summary["students"]["clean_kd"]["asr"] < 0.1


def test_the_inspection_names_the_class_and_the_purified_teacher_hands_less_over(demo):
    out, _ = demo
    found = json.loads((out / "auto" / "metrics.json").read_text())
    assert found["purification"]["inspected"]["suspects"] == [0]
    purified, teacher = found["results"]["purified"], found["results"]["teacher"]
    assert purified["triggers"][0]["asr"]["value"] < teacher["triggers"][0]["asr"]["value"] / 2
    students = json.loads((out / "summary.json").read_text())["students"]
    assert students["auto"]["asr"] < students["plain"]["asr"]


def test_every_model_is_a_folder_that_timm_loads(demo):
    out, printed = demo
    assert f"abd-hub app {out}/teacher {out}/plain" in printed
    assert all(log.stat().st_size for log in out.glob("*.log")), "an empty log says nothing"
    for name in ("teacher", "plain", "auto", "abd", "vaccine", "clean_kd"):
        model = timm.create_model(f"local-dir:{out / name}", pretrained=True).eval()
        assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
        assert name in printed
    for name in ("plain", "auto", "abd", "vaccine", "clean_kd"):
        held = {path.name for path in (out / name).iterdir()}
        assert held >= {"README.md", "config.yaml", "metrics.json", "samples", "checkpoints", "log.jsonl"} - (
            {"checkpoints"} if name == "clean_kd" else set()
        )
        rows = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
        samples = {"training_images.png", "verdicts_badnet_sq_0.png"}
        points = Counter(name for row in rows for name in row if name not in ("round", "seconds"))
        if max(points.values()) >= FEWEST_POINTS:
            samples.add("curves.png")
        if name in ("abd", "vaccine"):
            samples |= {"evidence.json", "synthetic_images.png", "suspicious.png", "divergence.png"}
        if name == "abd":
            samples.add("pattern_universal_direction.png")
        if name == "auto":
            samples |= {"trigger_mask_0.png", "trigger_additive_0.png"}
        assert {p.name for p in (out / name / "samples").iterdir()} == samples
        looks = [row["round"] for row in rows if "accuracy" in row]
        assert looks == sorted({*range(20, ROUNDS[name] + 1, 20), ROUNDS[name]})
    assert "poisoned on purpose" in (out / "teacher" / "README.md").read_text()


def test_its_teacher_can_be_pushed(demo):
    upload = read_upload(demo[0] / "teacher")
    assert upload.kind == "teacher" and upload.poisoned
    assert set(upload.files) >= {
        "model.safetensors",
        "metrics.json",
        "config.yaml",
        "poison.json",
        "log.jsonl",
    }
    measured = json.loads((demo[0] / "teacher" / "metrics.json").read_text())["report"]
    plain = json.loads((demo[0] / "plain" / "metrics.json").read_text())["results"]["teacher"]
    assert measured["accuracy"] == plain["accuracy"]
    assert measured["triggers"][0]["asr"] == plain["triggers"][0]["asr"]


def test_the_numbers_agree_everywhere(demo):
    out, printed = demo
    summary = json.loads((out / "summary.json").read_text())
    assert summary["device"] == "cpu (1 threads)" and {"torch", "platform"} <= set(summary["versions"])
    for name, row in summary["students"].items():
        found = json.loads((out / name / "metrics.json").read_text())["results"]["student"]
        assert found["accuracy"]["value"] == row["accuracy"]
        assert found["triggers"][0]["asr"]["value"] == row["asr"]
        assert f"{row['accuracy']:.3f}" in printed
    assert "safe" not in printed.lower().replace("safetensors", "")


def test_the_student_of_clean_images_is_the_control(demo):
    out, printed = demo
    assert "control" in printed.splitlines()[0]
    assert "plain     Warning: a backdoor works in this model" in printed
    for name in ("plain", "auto", "abd", "vaccine"):
        record = read_record(out / name)
        assert record.control.id == "clean_kd" and record.folder == str(out / name)
        clean = read_record(out / "clean_kd").student_report
        assert record.student_report.triggers[0].control == clean.triggers[0].asr
        assert record.student_report.control_accuracy == clean.accuracy
    assert "control 0 %)" in (out / "plain" / "README.md").read_text()


def test_a_finished_or_strange_folder_and_another_seed_are_refused(demo, tmp_path, capsys):
    assert main(["demo", "--output-dir", str(demo[0])]) == 2
    assert "holds a finished demo" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("x")
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert "holds files that abd-hub did not write" in capsys.readouterr().err
    (tmp_path / "mine.txt").unlink()
    (tmp_path / "config.yaml").write_text((demo[0] / "config.yaml").read_text())
    assert main(["demo", "--output-dir", str(tmp_path), "--seed", "1"]) == 2
    assert "seed: is 1 now and was 0 when the run began" in capsys.readouterr().err


def test_the_last_words_name_the_other_trigger():
    assert set(OTHER) == {"patch", "blend"}
    assert "--trigger blend" in OTHER["patch"] and "--trigger" not in OTHER["blend"]
