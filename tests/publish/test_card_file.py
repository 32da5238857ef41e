"""``abd-hub card``: the card made again from the record, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil

import poison_config
import pytest
import records
from commands import arguments
from huggingface_hub import ModelCard
from student_folder import make_folder
from tiny_teacher import save_teacher

from abd_hub import DataSpec, create_student, poison_teacher, save_timm_folder
from abd_hub.cli import main
from abd_hub.core import files
from abd_hub.core.record_file import read_record, record_to_json
from abd_hub.publish.own_parts import FREE_BEGINS

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "my-run")


def refused(capsys, *typed):
    capsys.readouterr()
    assert main([str(word) for word in typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_from_the_record_alone(folder, capsys):
    before = tree(folder)
    assert main(["card", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "file": str(folder / "README.md"),
        "kind": "student",
        "changed": True,
        "own_text": False,
    }
    assert tree(folder) == sorted([*before, "README.md"])
    card = (folder / "README.md").read_text()
    assert "samples/curves.png" in card and "samples/verdicts_badnets_0.png" in card
    assert "training_images" not in card, "a picture that is not there"
    assert main(["card", str(folder)]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert (folder / "README.md").read_text() == card


def test_options_and_own_text_stay(folder, capsys):
    assert main(["card", str(folder), "--repo-id", "me/student", "--license", "cc-by-4.0"]) == 0
    file = folder / "README.md"
    assert "hf-hub:me/student" in file.read_text()
    own = "\n## How I use it\n\nFor *tests*.\n"
    file.write_text(file.read_text().replace(FREE_BEGINS, FREE_BEGINS + own))
    assert main(["card", str(folder)]) == 0
    assert "your own text kept" in capsys.readouterr().out
    card = file.read_text()
    assert own in card and "hf-hub:me" not in card
    assert ModelCard(card).data.license == "cc-by-4.0"


def test_a_new_record_replaces_an_old_card(folder):
    assert main(["card", str(folder)]) == 0
    record = read_record(folder)
    files.write_json(folder / "metrics.json", record_to_json(dataclasses.replace(record, rounds=7)))
    assert main(["card", str(folder)]) == 0
    assert "7 rounds" in (folder / "README.md").read_text()


def test_edits_are_not_lost_without_force(folder, capsys):
    assert main(["card", str(folder)]) == 0
    file = folder / "README.md"
    made = file.read_text()
    own = f"{FREE_BEGINS}\nMine."
    edited = made.replace("0.827", "0.999").replace(FREE_BEGINS, own)
    for text in (edited, "# A card of somebody's own\n", "\ud800".encode("utf-8", "surrogatepass")):
        (file.write_bytes if isinstance(text, bytes) else file.write_text)(text)
        line = refused(capsys, "card", folder)
        assert "README.md" in line and "--force" in line
        assert file.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    file.write_text(edited)
    assert main(["card", str(folder), "--force"]) == 0
    assert file.read_text() == made.replace(FREE_BEGINS, own)


def change_json(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def other_weights(folder):
    shutil.rmtree(folder / "samples")
    make_folder(folder.parent / "other", ("a", "b", "c"))
    other = create_student("wrn_10_1", DataSpec(3, 8, 8, records.LABELS), MEAN, STD, seed=1,
                           model_args={"base_width": 4})  # fmt: skip
    save_timm_folder(other, folder)


def high_target(folder):
    content = json.loads((folder / "metrics.json").read_text())
    content["results"]["student"]["triggers"][0]["target"] = 3
    (folder / "metrics.json").write_text(json.dumps(content))


def other_classes(folder):
    content = json.loads((folder / "metrics.json").read_text())
    row = {"label": 0, "name": "horse", "n": 1, "correct": 1, "attacks": []}
    content["results"]["student"]["per_class"] = [row]
    (folder / "metrics.json").write_text(json.dumps(content))


WRONG = {
    "no model": (lambda f: (f / "model.safetensors").unlink(), "weights"),
    "half a model": (lambda f: (f / "model.safetensors").write_bytes(b"12345"), "safetensors"),
    "no config.json": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config.json is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "no metrics.json": (lambda f: (f / "metrics.json").unlink(), "metrics.json"),
    "metrics.json is no JSON": (lambda f: (f / "metrics.json").write_text("{"), "metrics.json"),
    "an unknown field": (change_json("metrics.json", more=1), "more"),
    "another kind": (change_json("metrics.json", kind="else"), "kind"),
    "too few labels": (change_json("config.json", label_names=["a"]), "label"),
    "another architecture": (change_json("config.json", architecture="wrn_16_1"), "wrn_16_1"),
    "other weights": (other_weights, "sha256"),
    "a target that is no label": (high_target, "target 3"),
    "other labels": (other_classes, "labels"),
    "a folder for a card": (lambda f: (f / "README.md").mkdir(), "README.md"),
}


@pytest.mark.parametrize(("spoil", "named"), WRONG.values(), ids=WRONG)
def test_what_does_not_agree_is_refused(folder, spoil, named, capsys):
    spoil(folder)
    before = tree(folder)
    line = refused(capsys, "card", folder)
    assert named in line and len(line) < 600
    assert tree(folder) == before


def test_wrong_options_are_refused(folder, capsys):
    assert "repo_id" in refused(capsys, "card", folder, "--repo-id", "a b")
    assert "license" in refused(capsys, "card", folder, "--license", "My own")
    assert "no folder" in refused(capsys, "card", folder / "absent")
    assert not (folder / "README.md").exists()


def test_the_card_of_a_run_is_made_again_to_the_letter(tmp_path):
    teacher = save_teacher(tmp_path / "teacher")
    assert main(["distill", *arguments(teacher, tmp_path / "student")]) == 0
    file = tmp_path / "student" / "README.md"
    card = file.read_text()
    file.unlink()
    assert main(["card", str(file.parent)]) == 0
    assert file.read_text() == card
    assert "by the last part of their path only: `teacher.id`. Run the command" in card


def test_the_card_of_a_teacher_is_made_again_to_the_letter(tmp_path, capsys):
    poison_teacher(poison_config.config(tmp_path / "teacher"))
    file = tmp_path / "teacher" / "README.md"
    card = file.read_text()
    assert "samples/poisoned.png" in card and "this model is poisoned on purpose" in card
    file.unlink()
    assert main(["card", str(file.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "teacher"
    assert file.read_text() == card
