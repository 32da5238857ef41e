"""What a run took from the Hub is named by its commit, so that the card's command repeats the run."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from hub_server import READ
from pulls import save_teacher
from records import make_record

from abd_hub.core.records import ModelRef
from abd_hub.publish.card import render_card

SHORT = {
    "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
    "zskt": {"rounds": 1, "batch_size": 4, "student_steps": 1, "attention_weight": 0, "z_dim": 4},
    "trainer": {"progress": False, "checkpoint_every": 0},
    "purification": "none",
}


def distill(worker, folder, *more):
    done = worker.ask(READ, command=["distill", "--output_dir", str(folder), *more])
    assert done["code"] == 0, done
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["hf-hub:acme/pinned", "acme/pinned@main"])
def test_the_settings_of_a_run_repeat_it(server, worker, tmp_path, name):
    repo = server.repo("acme/pinned")
    commit = repo.upload_folder(save_teacher(tmp_path / "first"))
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(SHORT))
    control = ["--evaluation.dataset", "digits", "--evaluation.limit", "8"]
    control += ["--evaluation.triggers", '[{"name": "badnet_sq", "target": 0}]']
    control += ["--evaluation.control", '{"id": "acme/pinned"}']
    first = distill(
        worker, tmp_path / "run", "--config", str(tmp_path / "short.yaml"), "--teacher.id", name, *control
    )

    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings == first["config"] | {"output_dir": "run"}
    assert settings["teacher"]["revision"] == settings["evaluation"]["control"]["revision"] == commit
    assert "@" not in settings["teacher"]["id"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "abd-hub distill --config config.yaml --output_dir reproduced\n" in card and commit in card

    repo.upload_folder(save_teacher(tmp_path / "second", seed=9))
    again = distill(worker, tmp_path / "again", "--config", str(tmp_path / "run" / "config.yaml"))
    assert again["teacher"] == first["teacher"] and again["student"]["sha256"] == first["student"]["sha256"]


def test_the_card_of_an_older_run_names_the_commit():
    record = make_record()
    commit = record.teacher.revision
    teacher = {**record.config.get("teacher", {}), "id": "org/poisoned_resnet", "revision": None}
    older = dataclasses.replace(record, config={**record.config, "teacher": teacher})
    words = f"--output_dir reproduced --teacher.id hf-hub:org/poisoned_resnet --teacher.revision {commit}\n"
    assert words in render_card(older, labels=("a", "b", "c"))
    pinned = {**record.config, "teacher": teacher | {"revision": commit}}
    newer = dataclasses.replace(record, config=pinned)
    assert "--output_dir reproduced\n" in render_card(newer, labels=("a", "b", "c"))
    local = dataclasses.replace(older, teacher=ModelRef("teacher", "resnet18", None, "a" * 64))
    assert "--output_dir reproduced\n" in render_card(local, labels=("a", "b", "c"))
