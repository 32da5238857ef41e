"""The settings under recipes/ are read and make sense."""

import argparse
import json
from pathlib import Path

import pytest

from abd_hub import parse_distill
from abd_hub.core import registry

ROOT = Path(__file__).parents[2]


def test_ten_lines_of_the_readme_are_the_recipes():
    recipe = (ROOT / "recipes" / "ten_lines.py").read_text()
    shown = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    body = recipe[recipe.index("config = ") :]
    for variable, value in (("id=teacher", 'id="hf-hub:org/name"'), ("=dataset,", '="uoft-cs/cifar10",')):
        body = body.replace(variable, value)
    assert shown.split("\n\n")[1].split() == body.replace("=output_dir", '="runs/student"').split()


def test_the_zoo_holds_eleven_attacks_and_a_clean_teacher():
    """Every settings block of the file is one that the command accepts."""
    import importlib.util

    import yaml

    from abd_hub.config.parsing import parse_poison

    spec = importlib.util.spec_from_file_location("zoo_build", ROOT / "recipes" / "zoo" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    zoo = yaml.safe_load((ROOT / "recipes" / "zoo" / "zoo.yaml").read_text())
    found = build.teachers(zoo, Path("zoo"))
    assert len(found) == 24
    triggers = {name: settings.get("poison", {}).get("trigger") for name, settings in found.items()}
    assert len(set(triggers.values())) == 12
    assert all(
        trigger == (None if name.endswith("/clean") else name.split("/")[1])
        for name, trigger in triggers.items()
    )
    for name, settings in found.items():
        kept = {key: value for key, value in settings.items() if key != "fast"}
        config = parse_poison(["--output_dir", "x", *flags(kept)])
        assert (
            config.poison.target == {"cifar10": 0, "gtsrb": 1}[name.split("/")[0]]
            or not config.poison.trigger
        )
        assert config.poison.rate == 0.1
        assert config.recipe.epochs == 200
        control = config.evaluation.control
        assert control is None if name.endswith("/clean") else control.id.endswith("/clean")
        assert (
            (config.poison.surrogate is not None)
            == (config.poison.perturbation == 16)
            == name.endswith("/cl")
        )


def test_the_models_of_the_page_are_made_by_settings_that_the_commands_accept(tmp_path):
    import runpy

    import yaml

    from abd_hub.config.parsing import parse_poison

    recipe = runpy.run_path(str(ROOT / "recipes" / "bundle.py"))
    options = argparse.Namespace(output_dir=tmp_path, dataset="data", rounds=20, control_rounds=3)
    found = {}
    for name, settings in recipe["TRAINED"].items():
        command, wanted = settings(options)
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(wanted))
        parse = {"poison": parse_poison, "distill": parse_distill}[command]
        found[name] = parse(["--config", str(tmp_path / "x.yaml"), "--output_dir", str(tmp_path / name)])
    attack = found["teacher"].poison.trigger, found["teacher"].poison.target
    for name, purification in (("control", "none"), ("plain", "none"), ("protected", "auto")):
        (measured,) = found[name].evaluation.triggers
        assert (measured.name, measured.target) == attack and found[name].purification == purification
        assert found[name].teacher.id == f"local-dir:{tmp_path / 'teacher'}" and not found[name].defenses
    assert found["plain"].evaluation.control.id == f"local-dir:{tmp_path / 'control'}"
    assert (found["control"].synthesizer.rounds, found["plain"].synthesizer.rounds) == (3, 20)


def flags(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flags(value, f"{prefix}{key}.")
        else:
            yield from (f"--{prefix}{key}", json.dumps(value) if not isinstance(value, str) else value)


SETTINGS = sorted(
    str(file.relative_to(ROOT))
    for folder in ("cifar10", "gtsrb")
    for file in (ROOT / "recipes" / folder).glob("*.yaml")
)


def test_every_method_has_settings_for_both_data_sets_and_for_the_cpu():
    names = [entry.name for entry in registry.catalog("synthesizers")]
    wanted = {
        f"recipes/{data}/{name}{kind}.yaml"
        for data in ("cifar10", "gtsrb")
        for name in names
        for kind in ("", "-cpu")
    }
    assert set(SETTINGS) == wanted


@pytest.mark.parametrize("file", SETTINGS)
def test_settings_are_read_and_make_sense(file):
    config = parse_distill(
        ["--config", str(ROOT / file), "--teacher.id", "hf-hub:org/name", "--output_dir", "x"]
    )
    name = Path(file).stem.removesuffix("-cpu")
    assert type(config.synthesizer) is registry.get("synthesizers", name)
    assert [type(defense).__name__ for defense in config.defenses] == [
        "ShufflingVaccine",
        "SelfRetrospection",
    ]
    retrospection = config.defenses[1]
    assert retrospection.last_rounds < config.synthesizer.rounds / 20
    assert config.purification == "none"
    text = (ROOT / file).read_text()
    assert f"--config {file} " in text, "its own command"
    assert config.trainer.mixed_precision == ("bf16" if "-cpu" in file else "no")


def test_the_papers_tables_are_every_teacher_of_the_zoo_with_every_defense():
    import yaml

    from abd_hub.sweep.config import read_sweep

    runs = read_sweep(ROOT / "recipes" / "paper_tables.yaml").runs
    zoo = yaml.safe_load((ROOT / "recipes" / "zoo" / "zoo.yaml").read_text())
    found = set()
    for run in runs:
        _, data, attack = run.config.teacher.id.split("/")
        (measured,) = run.config.evaluation.triggers
        target = zoo["datasets"][data]["poison"]["target"]
        assert (measured.name, measured.target) == (zoo["attacks"][attack]["poison"]["trigger"], target)
        assert run.config.evaluation.control.id == f"local-dir:zoo/{data}/clean"
        assert run.config.evaluation.dataset == zoo["datasets"][data]["data"]["dataset"]
        defenses = tuple(type(defense).__name__ for defense in run.config.defenses)
        assert run.config.purification == "none"
        assert run.config.synthesizer.rounds == {"cifar10": 80000, "gtsrb": 10000}[data]
        found.add((data, attack, defenses, run.config.seed))
        assert data in run.name and attack in run.name and len(run.name) <= 90
    wanted = ((), ("ShufflingVaccine",), ("ShufflingVaccine", "SelfRetrospection"))
    every = {(d, a, w, s) for d in zoo["datasets"] for a in zoo["attacks"] for w in wanted for s in range(3)}
    assert found == every and len(runs) == len(every) == 198
