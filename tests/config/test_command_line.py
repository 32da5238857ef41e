"""The command line, the files of settings and the help agree on every option."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from abd_hub import DistillConfig, SelfRetrospection, ShufflingVaccine, Zskt
from abd_hub.cli import main
from abd_hub.config.parsing import parse_distill

ROOT = Path(__file__).parents[2]


def test_the_command_line_wins_over_the_file(tmp_path):
    content = {
        "output_dir": "from-file",
        "teacher": {"id": "resnet18", "mean": [0, 0, 0]},
        "zskt": {"rounds": 10, "batch_size": 20},
        "defenses": ["shuffling_vaccine"],
        "shuffling_vaccine": {"copies": 2},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(content))
    for typed in (["--config", str(file), "--zskt.rounds", "7"], ["--zskt.rounds=7", f"--config={file}"]):
        config = parse_distill(typed)
        assert config.synthesizer == Zskt(rounds=7, batch_size=20)
        assert config.defenses == [ShufflingVaccine(copies=2)]
        assert (config.output_dir, config.teacher.mean, config.seed) == ("from-file", [0, 0, 0], 0)


def test_hyphens_and_underscores_are_the_same():
    same = [["--output-dir", "x"], ["--output_dir", "x"], ["--output-dir=x"]]
    configs = [parse_distill([*typed, "--teacher.id=resnet18", "--teacher.input-size=8"]) for typed in same]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].output_dir == "x" and configs[0].teacher.input_size == 8


def test_a_list_grows_by_a_plus():
    typed = ["--output_dir=x", "--teacher.id=resnet18", "--defenses+=self_retrospection"]
    assert parse_distill(typed).defenses == [SelfRetrospection()]


def test_help_shows_the_docstrings(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["distill", "--synthesizer=zskt", "--help-all"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Sets the noise vector's length." in text
    assert "Keeps this many of the newest checkpoints." in text


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "recipes").glob("digits*.yaml")), ids=lambda path: path.name
)
def test_recipes_are_valid(recipe):
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    typed = [] if "output_dir" in given else ["--output_dir=x"]
    typed += [] if "id" in given.get("teacher", {}) else ["--teacher.id=resnet18"]
    assert isinstance(parse_distill(["--config", str(recipe), *typed]), DistillConfig)
