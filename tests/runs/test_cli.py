"""The commands as a user types them, and what they leave behind."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.metadata
import io
import json
import logging
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import accelerator_state
import pytest
import quick_python
import timm
import torch
import yaml
from commands import arguments
from safetensors import safe_open
from tiny_teacher import save_teacher

from abd_hub import (
    DistillConfig,
    EvaluationOptions,
    ModelOptions,
    SelfRetrospection,
    ShufflingVaccine,
    StudentOptions,
    TrainerOptions,
    TriggerOptions,
    Zskt,
    cli,
    distill,
    load_classifier,
    load_images,
)
from abd_hub.cli import main
from abd_hub.commands.table import COMMANDS
from abd_hub.config.measuring import parse_compare, parse_evaluate
from abd_hub.config.parsing import parse_distill, parse_poison
from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.findings import headline
from abd_hub.core.record_file import read_record
from abd_hub.core.records import Agreement, Rate
from abd_hub.core.verdicts import format_verdict, verdict

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "timm",
    "transformers",
    "datasets",
    "accelerate",
    "gradio",
    "jsonargparse",
    "numpy",
    "pydantic",
}
KINDS = ("triggers", "synthesizers", "defenses", "students", "inspections", "purifications")
FILES = {
    "README.md",
    "config.json",
    "config.yaml",
    "log.jsonl",
    "metrics.json",
    "model.safetensors",
    "samples/divergence.png",
    "samples/evidence.json",
    "samples/pattern_self_retrospection.png",
    "samples/suspicious.png",
    "samples/synthetic_images.png",
    "samples/training_images.png",
    "samples/verdicts_badnet_sq_0.png",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("models") / "teacher")


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    """The folder of a finished run, and what its command printed."""
    output = tmp_path_factory.mktemp("runs") / "student"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["distill", *arguments(teacher, output)]) == 0
    accelerator_state.forget()
    return output, printed.getvalue()


@pytest.fixture(scope="module")
def finished(run):
    """The folder of a finished run."""
    return run[0]


def answer(capsys, *typed):
    capsys.readouterr()
    assert main([str(word) for word in typed]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------ the light commands


@pytest.mark.parametrize("typed", [["--help"], ["list"], ["list", "triggers", "--json"]], ids=" ".join)
def test_light_commands_import_nothing_heavy(typed):
    """The modules are counted rather than the seconds: what is slow is importing torch."""
    script = (
        "import runpy, sys, time\n"
        "sys.argv[0] = 'abd-hub'\n"
        "try:\n    runpy.run_module('abd_hub', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    found = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "    print((stop.code or 0, time.process_time(), found), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    code, seconds, modules = ast.literal_eval(done.stderr)
    assert code == 0
    assert not HEAVY.intersection(modules)
    assert seconds < 3, "of processor time: an import of torch alone takes more"
    assert "badnet_sq" in done.stdout or typed == ["--help"]
    if typed == ["--help"]:
        assert all(
            f"  {name} " in done.stdout for name in ("demo", "distill", "evaluate", "compare", "list", "env")
        )


def test_version(capsys):
    assert answer(capsys, "--version").startswith("abd-hub ")


def test_the_first_screen(capsys):
    """Without a command it goes to stderr, with the exit code of a mistake."""
    text = answer(capsys, "--help")
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    places = [text.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert list(COMMANDS)[:3] == ["demo", "distill", "evaluate"]
    assert main([]) == 2
    assert capsys.readouterr().err == text


def test_the_table_of_commands():
    for command in COMMANDS.values():
        assert callable(command.load())
        assert command.summary.endswith(".")


def page(capsys, monkeypatch, *typed):
    monkeypatch.setenv("COLUMNS", "100")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(typed))
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_screen_of_every_command(capsys, monkeypatch, command):
    text = page(capsys, monkeypatch, command, "--help")
    lines = text.splitlines()
    assert len(lines) <= {"distill": 120}.get(command, 100)
    assert lines[0].startswith(f"usage: abd-hub {command}")
    assert max(len(line) for line in lines) <= 110
    before, _, examples = text.partition("\nexamples:\n")
    assert all(line.startswith(f"  abd-hub {command}") for line in examples.splitlines())
    assert "-h, --help" in before


@pytest.mark.parametrize(
    "typed",
    [
        *(["--synthesizer", entry.name] for entry in registry.catalog("synthesizers")),
        ["--synthesizer=fast", "--defenses=shuffling_vaccine,self_retrospection,universal_direction"],
    ],
    ids=" ".join,
)
def test_the_screen_shows_what_is_chosen(capsys, monkeypatch, typed):
    text = page(capsys, monkeypatch, "distill", *typed, "--help")
    assert text.count("\n") <= 120
    for kind in ("synthesizers", "defenses"):
        for entry in registry.catalog(kind):
            chosen = entry.name in re.split("[=, ]", " ".join(typed))
            assert (f"--{entry.name}." in text) == chosen, entry.name
    whole = page(capsys, monkeypatch, "distill", *typed, "--help-all")
    for name in ("teacher.std", "evaluation.image_column", "trainer.dynamo_backend", "hub_private_repo"):
        assert f"--{name} " in whole
    assert {*re.findall(r"--[\w.]+", text)} - {"--help"} <= {*re.findall(r"--[\w.]+", whole)}


def test_examples_of_the_screens_are_accepted(capsys, monkeypatch):
    for command, parse in (("distill", parse_distill), ("poison", parse_poison)):
        text = page(capsys, monkeypatch, command, "--help")
        examples = text.partition("\nexamples:\n")[2].splitlines()
        assert len(examples) == 2
        for example in examples:
            words = example.split()[2:]
            assert words[-1] == "--help" or parse(words)
    for command, parse in (("evaluate", parse_evaluate), ("compare", parse_compare)):
        for example in (
            page(capsys, monkeypatch, command, "--help").partition("\nexamples:\n")[2].splitlines()
        ):
            assert parse(example.split()[2:]).evaluation.dataset == "digits"


@pytest.mark.parametrize("typed", [["list", "--json"], ["--help"], ["env"]], ids=" ".join)
def test_nobody_reads_the_output(typed):
    command = [sys.executable, "-m", "abd_hub", *typed]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as done:
        done.stdout.close()
        said = done.stderr.read()
        assert done.wait(timeout=60) == 141
    assert said == ""


def test_strangers_texts_do_not_act_on_the_terminal(capsys, monkeypatch):
    """A name that would clear the screen, or turn the direction of writing."""

    def refuse(given):
        logging.getLogger("abd_hub").warning("first \x1b[2J")
        raise InputError("second \x1b]0;x\x07 \u202e")

    monkeypatch.setattr(cli, "_run", refuse)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said == "first \ufffd[2J\nabd-hub: second \ufffd]0;x\ufffd \ufffd\n"


def test_a_terminal_that_cannot_show_a_name(capsys, monkeypatch):
    """The work before the last table is done, so no letter may stop it."""
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(cli, "_run", lambda given: print("h\xfc\u732b"))
    main(["list"])
    assert narrow.buffer.getvalue() == b"h\\xfc\\u732b\n"


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_what_can_be_used(capsys, kind):
    rows = json.loads(answer(capsys, "list", kind, "--json"))
    assert rows
    for row in rows:
        assert row["name"] and row["summary"].endswith(".")
        assert callable(registry.get(kind, row["name"]))
    text = answer(capsys, "list", kind)
    assert all(re.search(rf"^  {row['name']} +{re.escape(row['summary'])}", text, re.M) for row in rows)


def test_list_without_a_kind_lists_all(capsys):
    rows = json.loads(answer(capsys, "list", "--json"))
    assert {row["kind"] for row in rows} == set(KINDS)


def test_env(capsys):
    facts = json.loads(answer(capsys, "env", "--json"))
    assert facts["torch"] == importlib.metadata.version("torch")
    assert {"python", "abd-hub", "timm", "device", "threads"} <= set(facts)
    assert facts["timm"] in answer(capsys, "env")


# ------------------------------------------------------------------------------------------ a whole run


def test_what_a_run_leaves_behind(finished):
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("checkpoints/")} == FILES
    assert any(name.startswith("checkpoints/") for name in found)
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [3, 6]
    assert {"seconds", "student_loss", "disagreement", "penalty", "learning_rate"} <= set(rows[0])
    card = (finished / "README.md").read_text()
    assert card.startswith("---\n") and "badnet_sq" in card
    for path in finished.glob("*"):
        if path.suffix in (".md", ".json", ".yaml", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            assert str(finished.parent.parent) not in text, f"{path.name} tells a local path"
    assert yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", card, re.S | re.M)[1]) == yaml.safe_load(
        (finished / "config.yaml").read_text()
    )


def test_metrics(finished, teacher):
    data, card = json.loads((finished / "metrics.json").read_text()), (finished / "README.md").read_text()
    assert data["schema_version"] == 1
    assert data["method"] == "zskt" and data["seed"] == 5 and data["rounds"] == 6
    for name, folder in (("teacher", teacher), ("student", finished)):
        assert (data[name]["id"], data[name]["architecture"]) == (folder.name, "wrn_10_1")
        assert len(data[name]["sha256"]) == 64 and data[name]["revision"] is None
    assert data["data"]["id"] == "digits" and data["data"]["n"] == 539 and data["data"]["fingerprint"]
    active = {row["name"]: row["active"] for row in data["defenses"]}
    assert active == {"shuffling_vaccine": True, "self_retrospection": True}
    assert {"torch", "timm", "python"} <= set(data["versions"])
    patches, unseen = data["agreement"]
    assert (patches["images"], patches["rate"]["n"], unseen["images"]) == ("patches", 1000, "unseen")
    last = json.loads((finished / "log.jsonl").read_text().splitlines()[-1])
    assert last["agreement_patches"] == patches["rate"]["value"] and last["agreement_unseen"] is not None
    assert Agreement("patches", Rate(**patches["rate"]), patches["chance"]).sentence.split("%")[0] in card
    assert set(data["durations"]) == {"distillation", "distillation_processor", "evaluation"}
    assert data["device"] and data["processes"] == 1
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert data["config"]["teacher"]["id"] == f"local-dir:{teacher.name}", "a record names no path"
    assert data["config"] == written
    for report in data["results"].values():
        (attack,) = report["triggers"]
        assert (attack["trigger"], attack["target"], attack["options"]) == ("badnet_sq", 0, {})
        for rate in (report["accuracy"], attack["asr"], attack["robust_accuracy"]):
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
            assert rate["value"] == rate["count"] / rate["n"]
    assert read_record(finished).student.sha256 == data["student"]["sha256"]


def test_the_last_lines_are_the_verdict(run):
    """The teacher is a random network, and whatever the attack's rate is, it is no success."""
    folder, printed = run
    record = read_record(folder)
    found = verdict(record)
    assert printed.endswith(f"\n{format_verdict(record)}\nwrote {folder}\n")
    assert headline(found) == "Warning: this model has not learned enough to be used"
    assert (found[0].kind, found[0].level) == ("accuracy", "warning")
    assert (
        "The rate of badnet_sq to class 0 means nothing, because the student has learned too little."
        in printed
    )
    data = json.loads((folder / "metrics.json").read_text())
    assert data["verdict"] == [dataclasses.asdict(one) for one in found]
    assert repr(record).endswith(format_verdict(record))


def test_the_sizes_of_both_networks_are_the_files(finished):
    record = read_record(finished)
    with safe_open(finished / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    stored = sum(math.prod(shape) for shape in shapes)
    assert 0.9 * stored < record.student.parameters < stored, "without the statistics of batch norm"
    assert record.student.megabytes == pytest.approx(4 * stored / 1e6, rel=0.01)
    assert record.teacher.parameters == record.student.parameters, "one architecture"


def test_timm_reads_the_student(finished):
    theirs = timm.create_model(f"local-dir:{finished}", pretrained=True).eval()
    ours = load_classifier(str(finished))
    pixels = load_images("digits", "test", limit=20).pixels()
    with torch.no_grad():
        assert torch.equal(theirs(ours.normalize(pixels)), ours(pixels))
    assert ours.spec.labels == tuple("0123456789")


def test_the_stored_configuration_gives_the_same_student(finished, teacher, tmp_path, monkeypatch):
    """The teacher is stored by its name only, so the command is run beside it, as the card says."""
    monkeypatch.chdir(teacher.parent)
    assert main(["distill", "--config", str(finished / "config.yaml"), f"--output_dir={tmp_path}/again"]) == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (finished, tmp_path / "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_evaluate_repeats_the_numbers_of_the_record(finished, capsys, prefix):
    typed = ["--dataset", "digits", "--trigger", "badnet_sq", "--target", "0", "--json"]
    report = json.loads(answer(capsys, "evaluate", f"{prefix}{finished}", *typed))
    assert report == json.loads((finished / "metrics.json").read_text())["results"]["student"]


def test_evaluate_prints_a_table(finished, capsys):
    typed = ["--dataset", "digits", "--trigger", "badnet_sq", "--target", "0"]
    head, _, row = answer(capsys, "evaluate", finished, *typed, "--trigger-options", "size: 2").splitlines()
    assert head.split()[:3] == ["model", "accuracy", "n"]
    assert "badnet_sq" in row and " 539 " in row
    assert "badnet_sq" not in answer(capsys, "evaluate", finished, *typed[:2], "--trigger", "none")


def test_evaluate_repeats_the_attacks_of_the_record(finished, capsys):
    assert main(["evaluate", str(finished), "--dataset", "digits", "--json"]) == 0
    printed = capsys.readouterr()
    assert (
        json.loads(printed.out) == json.loads((finished / "metrics.json").read_text())["results"]["student"]
    )
    note = "Measures the 1 attack of the record of student; --trigger none leaves them out."
    assert printed.err.splitlines()[-1] == f"abd-hub: {note}"


def test_evaluate_tells_of_other_options_than_the_records(finished, capsys):
    typed = ["evaluate", str(finished), "--dataset", "digits", "--trigger", "badnet_sq", "--target"]
    for more in (["0", "--trigger-options", "size: 2"], ["1"], ["0", "--trigger-on", "input"]):
        assert main([*typed, *more]) == 0
        said = capsys.readouterr().err
        assert "The record of student names badnet_sq to class 0, which these options do not measure" in said
    assert main([*typed, "0,1"]) == 0
    assert "record" not in capsys.readouterr().err


def test_the_same_from_python(finished, teacher, tmp_path, capsys):
    method = Zskt(rounds=6, batch_size=8, student_steps=2)
    defenses = [ShufflingVaccine(check=False), SelfRetrospection(last_rounds=2, perturbation_steps=2)]
    record = distill(
        DistillConfig(
            output_dir=str(tmp_path / "student"),
            teacher=ModelOptions(id=f"local-dir:{teacher}"),
            student=StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
            synthesizer=method,
            defenses=defenses,
            purification="none",
            evaluation=EvaluationOptions(
                dataset="digits", triggers=[TriggerOptions(name="badnet_sq", target=0)]
            ),
            trainer=TrainerOptions(checkpoint_every=4, log_every=3, progress=False),
            seed=5,
        )
    )
    assert capsys.readouterr().out == ""
    assert dataclasses.asdict(record.student_report) == dataclasses.asdict(
        read_record(finished).student_report
    )
    weights = [(folder / "model.safetensors").read_bytes() for folder in (finished, tmp_path / "student")]
    assert weights[0] == weights[1]


def test_a_real_process(teacher, tmp_path):
    """distill prints the table and where it wrote; its log goes to stderr."""
    changes = ["--zskt.rounds=3", "--shuffling_vaccine.check=true", "--evaluation.limit=20"]
    typed = [*arguments(teacher, tmp_path / "out"), *changes]
    command = [sys.executable, "-m", "abd_hub", "distill", *typed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'out'}"
    assert "shuffling_vaccine: NOT ACTIVE" in done.stdout
    assert "Warning" not in done.stderr, done.stderr


def test_a_reader_that_wants_one_line_ends_the_command_quietly(finished):
    typed = ["evaluate", str(finished), "--dataset=digits", "--limit=20", "--json"]
    python = shlex.quote(quick_python.executable())
    line = f"{python} -m abd_hub {shlex.join(typed)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], check=False, capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    first, code = done.stdout.splitlines()
    assert first == "{" and code in ("0", "141")
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_a_stop_in_python_ends_with_one_line():
    script = "from abd_hub import Interrupted\nraise Interrupted('stopped after round 3 of 9')"
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr == "abd-hub: stopped after round 3 of 9; continue with resume=True\n"
