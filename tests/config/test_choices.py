"""A choice of plug-ins on the command line wins over the file's, and takes its settings along."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from abd_hub import Dafl, InputError, SelfRetrospection, ShufflingVaccine, Zskt, parse_distill
from abd_hub.config.parsing import check_distill, parse_poison

ROOT = Path(__file__).parents[2]
BASIC = {"output_dir": "x", "teacher": {"id": "resnet18"}}
TYPED = ["--output_dir=x", "--teacher.id=resnet18"]


def parsed(tmp_path, content, *typed):
    file = tmp_path / "run.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(BASIC | content))
    return parse_distill(["--config", str(file), *typed])


def kinds(config):
    return [type(defense) for defense in config.defenses]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--defenses", "self_retrospection"], [SelfRetrospection]),
        (["--defenses=shuffling_vaccine,self_retrospection"], [ShufflingVaccine, SelfRetrospection]),
        (["--defenses", "shuffling_vaccine, self_retrospection"], [ShufflingVaccine, SelfRetrospection]),
        (["--defenses=[self_retrospection]"], [SelfRetrospection]),
        (
            ["--defenses", "self_retrospection", "--seed=3", "--defenses=shuffling_vaccine"],
            [SelfRetrospection, ShufflingVaccine],
        ),
        (["--defenses+=self_retrospection"], [ShufflingVaccine, SelfRetrospection]),
        (["--defenses=none"], []),
        (["--defenses", "[]"], []),
        ([], [ShufflingVaccine]),
    ],
)
def test_every_way_to_write_defenses(tmp_path, typed, expected):
    content = {"defenses": ["shuffling_vaccine"], "shuffling_vaccine": {"copies": 2}}
    config = parsed(tmp_path, content, *typed)
    assert kinds(config) == expected
    assert all(d.copies == 2 for d in config.defenses if isinstance(d, ShufflingVaccine))


def test_another_method_leaves_out_the_settings_of_the_files_own(tmp_path):
    content = {"zskt": {"rounds": 7}, "defenses": ["shuffling_vaccine"], "shuffling_vaccine": {"copies": 2}}
    for method in ({}, {"synthesizer": "zskt"}):
        config = parsed(tmp_path, content | method, "--synthesizer=dafl", "--dafl.rounds=9")
        assert config.synthesizer == Dafl(rounds=9)
        assert config.defenses == [ShufflingVaccine(copies=2)]


@pytest.mark.parametrize("typed", ["[]", "none", "shuffling_vaccine", "self_retrospection"])
def test_shipped_recipes_take_another_choice(typed):
    file = ROOT / "recipes" / "cifar10" / "zskt-cpu.yaml"
    config = parse_distill(["--config", str(file), *TYPED, "--defenses", typed])
    whole = parse_distill(["--config", str(file), *TYPED])
    assert config.synthesizer == whole.synthesizer
    assert all(defense in whole.defenses for defense in config.defenses)
    assert len(config.defenses) == (typed not in ("[]", "none"))


def test_what_is_kept_of_a_file_keeps_its_spelling(tmp_path):
    """1e-4 is a number to jsonargparse and a text to YAML 1.1; a quoted one is a text to both."""
    text = (
        "output_dir: x\nteacher: {id: resnet18, revision: '1e45'}\nzskt: {learning_rate: 1e-4}\n"
        "shuffling_vaccine: {copies: 2}\ndefenses: [shuffling_vaccine]\n"
    )
    config = parsed(tmp_path, text, "--defenses=none")
    assert config == parsed(tmp_path, text.rsplit("\n", 3)[0])
    assert config.teacher.revision == "1e45"
    assert config.synthesizer == Zskt(learning_rate=1e-4)


@pytest.mark.parametrize(
    ("content", "typed", "expected"),
    [
        ({"dafl": {"rounds": 3}, "zskt": {"rounds": 3}}, [], ["dafl and zskt", "--synthesizer dafl"]),
        ({"dafl": {"rounds": 3}}, ["--fast.rounds=2"], ["dafl and fast", "choose one"]),
        ({"synthesizer": "zskt"}, ["--dafl.rounds=2"], ["dafl.rounds", "set synthesizer to dafl"]),
        ({"shuffling_vaccine": {"copies": 2}}, [], ["shuffling_vaccine.copies", "to defenses"]),
        ({}, ["--shuffling_vaccine.copies", "2"], ["shuffling_vaccine.copies", "'2'", "to defenses"]),
        ({"defenses": "shuffling_vaccine"}, [], ["defenses", "list", "shuffling_vaccine"]),
        ({"synthesizer": ["zskt"]}, [], ["synthesizer", "name", "zskt"]),
        ({}, ["--defenses"], ["defenses", "no value"]),
        ({}, ["--defenses", "--seed=3"], ["defenses", "no value"]),
        ({}, ["--synthesizer="], ["synthesizer", "no value"]),
        ({}, ["--synthesizer+=dafl"], ["synthesizer", "one name"]),
        ({}, ["--defenses=shuffling_vaccine,"], ["defenses", "''"]),
        ({}, ["--defenses=[a"], ["defenses", "YAML"]),
        ({}, ["--defenses", "shuffling_vacine"], ["shuffling_vacine", "did you mean shuffling_vaccine"]),
        ({}, ["--defenses=shuffling_vaccine", "--defenses=shuffling_vaccine"], ["defenses", "twice"]),
    ],
)
def test_choices_that_are_refused(tmp_path, content, typed, expected):
    with pytest.raises(InputError) as refusal:
        parsed(tmp_path, content, *typed)
    line = str(refusal.value)
    assert "\n" not in line
    assert all(part in line for part in expected), line


@pytest.mark.parametrize(
    ("content", "typed", "line"),
    [
        ({"synthesizer": "zskt", "dafl": {"rounds": 3}}, [], "settings of dafl are ignored, because"),
        (
            {"defenses": [], "dhbe": {"seed_share": 1}},
            [],
            "settings of dhbe are ignored, because defenses is none",
        ),
        (
            {"defenses": ["shuffling_vaccine"]},
            ["--defenses=none", "--shuffling_vaccine.copies=2"],
            "settings of shuffling_vaccine are ignored, because defenses is none",
        ),
        (
            {"defenses": ["shuffling_vaccine"], "shuffling_vaccine": {"copies": 2}},
            ["--defenses=none"],
            "",
        ),
    ],
)
def test_settings_of_what_is_switched_off_are_ignored_with_a_line(tmp_path, caplog, content, typed, line):
    config = parsed(tmp_path, content, *typed)
    assert config.defenses == []
    assert [message[: len(line)] for message in caplog.messages] == ([line] if line else [])


@pytest.mark.parametrize("chosen", ["none", "[]", "universal_direction", "universal_direction,dhbe"])
def test_the_defenses_of_a_shipped_recipe_can_be_switched(tmp_path, chosen):
    """The recipe has settings of a defense that is switched off, and of a method that stays."""
    typed = ["x", f"--output_dir={tmp_path / 'out'}", "--preset=cifar10/ood-cpu", f"--defenses={chosen}"]
    check_distill(typed)
    config = parse_distill(typed)
    assert len(config.defenses) == (0 if chosen in ("none", "[]") else chosen.count(",") + 1)
    assert not any(isinstance(defense, SelfRetrospection) for defense in config.defenses)


@pytest.mark.parametrize("typed", [["--dafl.rounds=9"], ["--dafl.rounds", "9", "--defenses=none"]])
def test_settings_of_one_method_choose_it(tmp_path, typed):
    assert parsed(tmp_path, {}, *typed).synthesizer == Dafl(rounds=9)
    assert parsed(tmp_path, {"dafl": {"rounds": 9}}).synthesizer == Dafl(rounds=9)


def test_recipes_of_a_teacher_are_chosen_alike(tmp_path):
    file = tmp_path / "teacher.yaml"
    content = {"output_dir": "x", "data": {"dataset": "digits"}, "recipe": "fast", "fast": {"epochs": 3}}
    file.write_text(yaml.safe_dump(content))
    assert parse_poison(["--config", str(file)]).recipe.epochs == 3
    assert parse_poison(["--config", str(file), "--recipe=paper"]).recipe.epochs == 200
    with pytest.raises(InputError, match=r"paper\.epochs: '3' is set, but recipe is fast"):
        parse_poison(["--config", str(file), "--paper.epochs", "3"])


def test_many_configurations_are_parsed_fast():
    """A sweep parses hundreds; the parser of a choice is made once."""
    parse_distill(TYPED)
    begun = time.process_time()
    for seed in range(20):
        parse_distill([*TYPED, f"--seed={seed}"])
    assert (time.process_time() - begun) / 20 < 0.25
