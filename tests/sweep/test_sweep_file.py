"""What the file of a sweep may say, and what is refused before anything is written."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from folders import snapshot
from sweep_files import BASE, names, write

from abd_hub.cli import main
from abd_hub.core.folder import OutputFolder
from abd_hub.sweep.config import read_sweep

ROOT = Path(__file__).parents[2]


def test_a_grid_is_every_combination_under_readable_names():
    found = read_sweep(write()).runs
    assert [(run.config.seed, len(run.config.defenses)) for run in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [run.name.rpartition("-")[0] for run in found] == [
        "seed_0-no_defenses",
        "seed_0-shuffling_vaccine",
        "seed_1-no_defenses",
        "seed_1-shuffling_vaccine",
    ]
    assert all(run.config.synthesizer.rounds == 2 for run in found)
    assert not any(run.config.trainer.progress for run in found)
    assert [run.label() for run in found[:2]] == ["no defenses", "shuffling_vaccine"]
    assert found[0].group() == found[2].group() != found[1].group()


def test_a_list_of_runs_is_combined_with_the_grid():
    pairs = [{"teacher.id": "zoo/one", "zskt.rounds": 3}, {"teacher": {"id": "zoo/two"}}]
    found = read_sweep(write(runs=pairs, grid={"seed": [5, 6]})).runs
    assert [(r.config.teacher.id, r.config.synthesizer.rounds, r.config.seed) for r in found] == [
        ("zoo/one", 3, 5),
        ("zoo/one", 3, 6),
        ("zoo/two", 2, 5),
        ("zoo/two", 2, 6),
    ]
    alone = read_sweep(write(runs=pairs, grid=None)).runs
    assert [run.name.rpartition("-")[0] for run in alone] == ["one-rounds_3", "two"]


def test_the_shared_configuration_is_a_file_beside_the_sweep(place):
    (place / "a").mkdir()
    for name, rounds in (("one", 7), ("two", 8)):
        content = BASE | {"zskt": BASE["zskt"] | {"rounds": rounds}, "output_dir": "elsewhere"}
        (place / "a" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (first,) = read_sweep(write("a/sweep.yaml", config="one.yaml", grid={"seed": [1]})).runs
    assert first.config.synthesizer.rounds == 7
    both = read_sweep(write("a/sweep.yaml", config=None, grid={"config": ["one.yaml", "two.yaml"]})).runs
    assert [run.config.synthesizer.rounds for run in both] == [7, 8]
    assert [run.name.rpartition("-")[0] for run in both] == ["one", "two"]


def test_settings_of_a_defense_are_left_out_where_it_is_not_chosen():
    base = BASE | {"shuffling_vaccine": {"layers": 2}}
    found = read_sweep(write(config=base)).runs
    assert [d.layers for run in found for d in run.config.defenses] == [2, 2]


def test_names_follow_what_the_file_says_and_nothing_else():
    before = names(write())
    assert names(write(output_dir="other", retries=7, resources={"cpus": 2})) == before
    reordered = dict(reversed(list(BASE.items())))
    assert names(write(config=reordered)) == before
    changed = BASE | {"zskt": BASE["zskt"] | {"rounds": 4}}
    assert not set(names(write(config=changed))) & set(before)


def test_a_value_of_a_mapping_is_replaced_whole_and_that_of_a_section_is_not():
    grid = {"student.model_args": [{}, {"base_width": 8}], "teacher": [{"num_classes": 10}]}
    found = read_sweep(write(grid=grid)).runs
    assert [run.config.student.model_args for run in found] == [{}, {"base_width": 8}]
    assert [(run.config.teacher.id, run.config.teacher.num_classes) for run in found] == [
        ("local-dir:teacher", 10)
    ] * 2


def test_teachers_are_swept_as_well():
    base = {"data": {"dataset": "digits"}, "recipe": "fast", "fast": {"epochs": 1}}
    grid = {"poison.trigger": [None, "badnet_sq"], "seed": [0]}
    found = read_sweep(write(command="poison", config=base, grid=grid)).runs
    assert [run.config.poison.trigger for run in found] == [None, "badnet_sq"]
    assert [run.name.rpartition("-")[0] for run in found] == ["no_trigger", "badnet_sq"]


def test_the_example_of_the_guide_is_a_sweep(place):
    guide = (ROOT / "recipes" / "guides" / "sweeps.md").read_text()
    (text,) = [part.split("```")[0] for part in guide.split("```yaml\n")[1:] if "\ngrid:" in part]
    (place / "cifar10").symlink_to(ROOT / "recipes" / "cifar10")
    (place / "guide.yaml").write_text(text)
    found = read_sweep("guide.yaml")
    assert len(found.runs) == 18 and found.file.resources.gpus == 0.25
    assert {run.config.evaluation.triggers[0].name for run in found.runs} == {"blend", "sig"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gird": {}}, ["gird: unknown key in sweep.yaml", "did you mean grid"]),
        ({"output_dir": None}, ["output_dir:", "--output_dir"]),
        ({"command": "evaluate"}, ["command: must be distill or poison"]),
        ({"grid": None}, ["grid: is empty, and so is runs"]),
        ({"grid": {"seed": []}}, ["grid.seed: is empty"]),
        ({"grid": {"seed": [*range(200)], "zskt.rounds": [*range(1, 99)]}}, ["makes 19,600 runs", "10,000"]),
        ({"grid": {"config": ["a\0b"]}}, ["cannot be read", "null byte"]),
        ({"grid": {"seed": 3}}, ["grid.seed: must be a list", "[3]"]),
        ({"grid": {"seed": [1, 1]}}, ["grid.seed: 1 is listed twice"]),
        ({"grid": {"seeed": [1]}}, ["seeed: unknown key in sweep.yaml", "did you mean seed"]),
        ({"grid": {"zskt.rounds": [1, "two"]}}, ["two-", "zskt.rounds: Expected an int"]),
        ({"grid": {"zskt.rounds": [1, -2]}}, ["rounds_-2", "rounds: must"]),
        ({"grid": {"output_dir": ["a"]}}, ["grid.output_dir: is the sweep's own"]),
        ({"grid": {"push_to_hub": [True]}}, ["push_to_hub: a sweep pushes nothing"]),
        ({"config": BASE | {"push_to_hub": True}}, ["push_to_hub: a sweep pushes nothing"]),
        ({"config": "no.yaml"}, ["no.yaml does not exist"]),
        ({"config": 3}, ["config: must be a file or a mapping"]),
        ({"runs": [{"seed": 4}]}, ["seed: is set twice for one run"]),
        ({"grid": {"teacher": [{"id": "a"}], "teacher.id": ["b"]}}, ["teacher.id: is set twice"]),
        ({"runs": [{"zskt.rounds": 2}, {"zskt.rounds": 2}]}, ["two runs have the same settings"]),
        ({"runs": ["seed"]}, ["runs[0]: must be a mapping"]),
        ({"runs": {"seed": 1}}, ["runs: must be a list"]),
        ({"resources": {"gpu": 1}}, ["resources.gpu: unknown key", "resources.gpus"]),
        ({"resources": {"gpus": 1.5}}, ["resources.gpus: more than one card must be a whole number"]),
        ({"resources": {"cpus": 0}}, ["resources.cpus: must be positive, got 0"]),
        ({"retries": -1}, ["retries: must be a whole number"]),
        ({"output_dir": "sweep.yaml/out"}, ["output_dir: ", "sweep.yaml is a file"]),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_written(capsys, place, fields, words):
    file = write(**fields)
    before = snapshot(place)
    for extra in ([], ["--dry-run"]):
        assert main(["sweep", file, *extra]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(word in line for word in words), line
    assert snapshot(place) == before


def test_places_that_belong_to_something_else_are_refused(capsys, place):
    file = write()
    (place / "out").mkdir()
    (place / "out" / "notes.txt").write_text("mine")
    assert main(["sweep", file]) == 2
    assert "holds files that abd-hub did not write" in capsys.readouterr().err
    with OutputFolder.open("run", resume=False, config_yaml="seed: 1\n"):
        pass
    assert main(["sweep", file, "--output_dir", "run"]) == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err


def test_a_dry_run_adds_up_the_time(capsys, place):
    (place / "teacher").mkdir()
    counted = {key: value for key, value in BASE.items() if key not in ("synthesizer", "zskt")}
    assert (
        main(["sweep", write(config=counted | {"budget": "20m"}, grid={"seed": [0, 1, 2]}), "--dry-run"]) == 0
    )
    assert capsys.readouterr().out.endswith("3 runs: 3 with a budget take 1 h 0 min one after another\n")
    assert main(["sweep", write(grid={"seed": [0, 1]}), "--dry-run"]) == 0
    assert "the time of 2 is not known" in capsys.readouterr().out


def test_without_ray_one_line_says_how_to_install_it(capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    before = snapshot(place)
    file = write()
    assert main(["sweep", file]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "abd-hub: sweep: runs on Ray, which is not installed; install it with pip install 'ray>=2.60'"
    ]
    assert main(["sweep", file, "--dry-run"]) == 2
    assert "teacher.id: the folder teacher does not exist; make or" in capsys.readouterr().err
    (place / "teacher").mkdir()
    assert main(["sweep", file, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"waiting": 4}
    assert {path: snapshot(place)[path] for path in before} == before and not (place / "out").exists()
