"""Files and folders that a run cannot use, and what a real process says of them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bad_inputs import BARE, refused, write_config
from folders import snapshot
from hostile_pickle import Hostile

from abd_hub.config.parsing import parse_distill

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", ["config", "mapping", "list"]),
        ("teacher: {id: [\n", ["config", "YAML"]),
        ("", ["config", "mapping"]),
        ("seed: !!python/object/apply:os.getcwd []\n", ["config", "YAML"]),
        (b"\xff\xfe\x00", ["config", "cannot be read"]),
        (None, ["config", "run.yaml", "does not exist"]),
        ("1: 2\n", ["1", "unknown"]),
        ("output_dir: x\nteacher: {id: x}\nzskt: {rounds: }\n", ["zskt.rounds", "no value"]),
        ("output_dir: x\nteacher: {id: x}\nsynthesizer:\n", ["synthesizer", "no value"]),
        ("output_dir: x\nteacher: {id: x}\ndefenses:\n", ["defenses", "no value"]),
        ("output_dir: x\nteacher: {id: x}\ntrainer:\n", ["trainer", "mapping"]),
    ],
    ids=[
        *("list", "broken", "empty", "python object", "not text", "missing", "number as key"),
        *("null for a number", "null for a name", "null for a list", "null for a section"),
    ],
)
def test_files_that_are_no_configuration(place, capsys, text, expected):
    file = place / "run.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, place, ["distill", "--config", str(file)], expected)


def hostile_pickle(tmp):
    (tmp / "weights.pth").write_bytes(pickle.dumps({"net": Hostile(tmp / "ran")}))


def hostile_zip(tmp):
    torch.save({"net": Hostile(tmp / "ran")}, tmp / "weights.pth")


@pytest.mark.parametrize("make", [hostile_pickle, hostile_zip])
@pytest.mark.parametrize("allow", [True, False])
def test_a_pickle_that_would_run_code(place, capsys, make, allow):
    make(place)
    file = write_config(place, BARE | {"teacher.allow_pickle": allow})
    refused(capsys, place, ["distill", "--config", file], ["weights", "weights.pth"])
    assert not (place / "ran").exists()


def test_an_output_folder_in_use_by_another_process(place, capsys):
    config = parse_distill(["--config", write_config(place, {})]).to_yaml()
    (place / "stored.yaml").write_text(config)
    script = (
        "import sys; from pathlib import Path; from abd_hub.core.folder import OutputFolder\n"
        "text = Path(sys.argv[2]).read_text()\n"
        "with OutputFolder.open(sys.argv[1], resume=False, config_yaml=text):\n"
        "    print('open', flush=True)\n    input()"
    )
    command = [sys.executable, "-c", script, str(place / "out"), str(place / "stored.yaml")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        try:
            assert other.stdout.readline() == "open\n"
            arguments = ["distill", "--config", str(place / "run.yaml"), "--resume", "true"]
            refused(capsys, place, arguments, ["output_dir", "in use"])
        finally:
            other.communicate("\n", timeout=300)


def test_the_line_of_a_real_process_stands_alone(place):
    """No log line, warning or progress bar comes with the error, late as it is found."""
    file = write_config(place, {"zskt.attention_weight": 250, "teacher.blocks": ["group3"]})
    before = snapshot(place)
    command = [sys.executable, "-m", "abd_hub", "distill", "--config", file]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("abd-hub: attention_weight")
    assert done.stderr.count("\n") == 1
    assert snapshot(place) == before
