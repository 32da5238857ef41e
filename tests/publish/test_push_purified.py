"""A purified copy goes to the Hub under its own kind, and comes back with the same logits."""

import json

import pytest
from huggingface_hub import ModelCard
from purified_folder import make_purified
from pushes import NAME, push, refused

from abd_hub.core.folder import write_config
from abd_hub.publish.own_parts import is_untouched

pytestmark = pytest.mark.hub_client
SENT = {
    "README.md",
    "config.json",
    "model.safetensors",
    "purification.json",
    "samples/trigger_mask_0.png",
}


@pytest.fixture
def copy(tmp_path):
    made = make_purified(tmp_path / "copy")
    (made / "notes.txt").write_text("mine")
    return made


def test_a_copy_is_pushed_and_comes_back(server, worker, copy):
    said = push(worker, copy, "--license", "mit")
    repo = server.repo(NAME)
    assert set(repo.files) == SENT | {".gitattributes"} and repo.at("main").sha in said
    for name in SENT - {"README.md"}:
        assert repo.files[name] == (copy / name).read_bytes(), name
    card = repo.files["README.md"].decode()
    assert is_untouched(card) and f"hf-hub:{NAME}" in card
    assert ModelCard(card).data.base_model == "org/poisoned"
    assert worker.load(NAME)["logits"] == worker.load(str(copy))["logits"]
    assert push(worker, copy).startswith("nothing to push")


def test_a_new_purification_replaces_the_old_one(server, worker, copy):
    push(worker, copy)
    record = json.loads((copy / "purification.json").read_text())
    record["purification"]["inspected"]["triggers"] = []
    (copy / "purification.json").write_text(json.dumps(record | {"seed": 7}))
    told = json.loads(push(worker, copy, "--json"))
    assert sorted(told["changed"]) == ["README.md", "purification.json"]
    assert told["removed"] == ["samples/trigger_mask_0.png"] and told["kind"] == "purified model"
    record["teacher"]["id"] = "org/another"
    (copy / "purification.json").write_text(json.dumps(record))
    assert "with teacher 'org/poisoned', not 'org/another'" in refused(worker, copy)


def test_kinds_do_not_replace_each_other(server, worker, copy, folder):
    push(worker, copy)
    assert "holds a purified model, not a student" in refused(worker, folder)
    push(worker, folder, name="acme/other")
    assert "holds a student, not a purified model" in refused(worker, copy, name="acme/other")


def test_an_unfinished_distillation_is_no_copy(server, worker, copy):
    """It has a purification.json as well."""
    write_config(copy, "output_dir: run\n")
    assert "is not finished" in refused(worker, copy)
    done = worker.ask(command=["card", str(copy)])
    assert done["code"] == 2 and "metrics.json" in done["shown"]
    assert server.repos == {}
