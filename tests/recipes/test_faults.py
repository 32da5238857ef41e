"""Commands that are killed lose nothing, and the judge of the recipe finds each kind of damage."""

import json

import fault_files
import pytest
from fault_files import broken, differences, results
from fault_trials import Bench, trial

FILES = {
    "model.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}",
    "metrics.json": b'{"seed": ',
    "log.jsonl": b'{"round": 1}\n{"rou',
    "config.yaml": b"a: [1",
    "curves.png": b"\x89PNG",
    "README.md": b"# A model",
}


@pytest.mark.parametrize("name", FILES)
def test_the_judge_finds_a_half_file(name, tmp_path):
    (tmp_path / f".abd-tmp-{'0' * 16}-{name}").write_bytes(FILES[name])
    assert broken(tmp_path) == [], "a temporary file is no result"
    (tmp_path / name).write_bytes(FILES[name])
    assert broken(tmp_path)[0].startswith(f"{name} is not whole")


def test_the_judge_compares_all_but_the_times(tmp_path):
    def write(name, seconds, seed):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"durations": seconds, "seed": seed}))
        return results(tmp_path / name)

    first, later, other = write("a", 1, 0), write("b", 2, 0), write("c", 1, 1)
    assert differences(later, first) == []
    assert differences(other, first) == ["metrics.json is another"]
    assert differences({}, first) == ["metrics.json is missing"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with Bench(tmp_path_factory.mktemp("bench"), 0, small=True) as started:
        yield started


@pytest.mark.parametrize("fault", ["kill of a resume", "read-only folder"])
def test_a_training_survives(bench, fault):
    assert trial(bench, "poison", fault, 0).why == ""


def test_a_trial_finds_what_a_kill_has_lost(bench, monkeypatch):
    """A log that is not there at the end counts as wrong."""
    log = "made/log.jsonl"
    found = fault_files.results
    monkeypatch.setattr(
        fault_files, "results", lambda place: {k: v for k, v in found(place).items() if k != log}
    )
    assert f"{log} is missing" in trial(bench, "poison", "kill in a write", 0).why
