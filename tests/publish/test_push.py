"""Folders go to the Hub and come back through a real server and real processes, or are refused."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import records
import yaml
from hub_server import NOTHING, READ, WRITE, WRITING
from hub_worker import Worker
from huggingface_hub import DatasetCard, ModelCard
from pushes import NAME, SENT, change_record, make_space, push, refused
from student_folder import make_folder
from tiny_teacher import save_teacher

from abd_hub.core.record_file import read_record
from abd_hub.publish.bank_export import write_bank
from abd_hub.publish.own_parts import is_untouched

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.hub_client


# --------------------------------------------------------------------------------------------------- good


def test_what_arrives_is_what_the_folder_holds_and_nothing_else(server, worker, folder):
    said = push(worker, folder, "--license", "apache-2.0")
    repo = server.repo(NAME)
    assert set(repo.files) == SENT | {".gitattributes"}
    for name in SENT - {"README.md"}:
        assert repo.files[name] == (folder / name).read_bytes(), name
    assert len(repo.commits) == 2 and repo.at("main").sha in said and server.url in said
    card = repo.files["README.md"].decode()
    assert is_untouched(card) and f"hf-hub:{NAME}" in card and not repo.private
    assert ModelCard(card).data.license == "apache-2.0"
    assert not (folder / "README.md").exists()


def test_a_token_of_ones_own_is_the_only_one_used(server, worker, folder):
    done = worker.ask(READ, push=[str(folder), NAME, WRITE])
    assert done == {"commit": server.repo(NAME).at("main").sha}
    assert {request.token for request in server.requests if request.route != "upload"} == {WRITE}


@pytest.mark.parametrize(("token", "said"), [(READ, "only read"), ("", "empty"), (f"{WRITE}\n", "no token")])
def test_a_token_of_ones_own_is_not_replaced(server, worker, folder, token, said):
    done = worker.ask(WRITE, push=[str(folder), NAME, token])
    assert said in done["error"] and not any(known in done["error"] for known in (READ, WRITE))
    assert server.repos == {} and WRITE not in {request.token for request in server.requests}


def test_no_file_with_a_token_of_ones_own_leaves(server, worker, folder):
    (folder / "log.jsonl").write_text(json.dumps({"round": 1, "note": WRITE}))
    done = worker.ask("", push=[str(folder), NAME, WRITE])
    (folder / "log.jsonl").unlink()
    assert "seems to hold a token" in done["error"] and WRITE not in done["error"]
    assert server.requests == []


def test_again_sends_nothing(server, worker, folder):
    push(worker, folder, "--license", "mit")
    before = dict(server.repo(NAME).commits)
    server.clear()
    assert push(worker, folder).startswith("nothing to push")
    told = json.loads(push(worker, folder, "--json"))
    assert (told["changed"], told["removed"], told["commit"]) == ([], [], server.repo(NAME).at("main").sha)
    assert server.seen(*WRITING) == [] and server.repo(NAME).commits == before


def test_new_metrics_replace_the_old_ones(server, worker, folder):
    push(worker, folder)
    first = server.repo(NAME).at("main").sha
    old = server.repo(NAME).files
    change_record(folder, rounds=7, seed=5)
    told = json.loads(push(worker, folder, "--json"))
    assert sorted(told["changed"]) == ["README.md", "metrics.json"]
    new = server.repo(NAME).files
    assert b"7 rounds" in new["README.md"] and b"7 rounds" not in old["README.md"]
    assert json.loads(new["metrics.json"])["seed"] == 5
    assert server.repo(NAME).at(first).files == old


def test_pictures_that_the_new_run_lacks_go_and_what_others_added_stays(server, worker, folder):
    push(worker, folder)
    repo = server.repo(NAME)
    mine = {"samples/mine.png": b"mine", "notes.txt": b"mine", "samples/verdicts_x_0.png": b"mine"}
    repo.commit(mine)
    report = read_record(folder).student_report
    triggers = tuple(dataclasses.replace(found, trigger="blend") for found in report.triggers)
    change_record(folder, student_report=dataclasses.replace(report, triggers=triggers))
    told = json.loads(push(worker, folder, "--json"))
    assert told["removed"] == ["samples/verdicts_badnets_0.png"]
    assert set(repo.files) == (SENT - set(told["removed"])) | set(mine) | {".gitattributes"}


def test_through_the_formats_of_others_and_at_the_old_commit(server, running, folder, tmp_path):
    """Pushed, pulled into a cache that is new, answered to the bit as here; then again after another push."""
    pulls = Worker(running.environment(tmp_path / "new"))
    here = pulls.load(str(folder))["logits"]
    push(pulls, folder)
    first = server.repo(NAME).at("main").sha
    made = make_folder(tmp_path / "second", labels=records.LABELS[::-1])
    for source in (folder, made):
        push(pulls, source)
        found = pulls.ask(others=[NAME, None])
        labels = list(records.LABELS)[:: 1 if source == folder else -1]
        assert found == {"timm": here, "auto": here, "pipeline": here, "labels": labels}
        assert pulls.load(NAME)["logits"] == here
    assert server.repo(NAME).at("main").sha != first
    assert pulls.load(NAME, revision=first)["revision"] == first
    assert pulls.ask(others=[NAME, first])["labels"] == list(records.LABELS)
    pulls.close()
    offline = Worker(running.environment(tmp_path / "new", HF_HUB_OFFLINE="1"))
    server.clear()
    assert offline.load(NAME, revision=first)["logits"] == here
    assert offline.ask(others=[NAME, None])["labels"] == list(records.LABELS)[::-1]
    assert "HF_HUB_OFFLINE is set" in refused(offline, folder)
    assert server.requests == []
    assert "Traceback" not in offline.close()


def test_a_poisoned_teacher_with_its_warning(server, worker, poisoned):
    said = push(worker, poisoned, "--private", name="acme/teacher")
    repo = server.repo("acme/teacher")
    assert repo.private and "poisoned on purpose" in said and "private" in said
    card = repo.files["README.md"].decode()
    assert "**Warning: this model is poisoned on purpose.**" in card
    assert {"poisoned", "backdoor"} <= set(ModelCard(card).data.tags)
    assert repo.files["poison.json"] == (poisoned / "poison.json").read_bytes()
    assert "samples/poisoned.png" in repo.files


def test_an_image_bank(server, worker, bank, tmp_path, monkeypatch):
    monkeypatch.setattr("abd_hub.publish.bank_export.SHARD", 5 * bank.images[0].numel())
    place = write_bank(bank, tmp_path / "images")
    push(worker, place, name="acme/images")
    repo = server.repo("acme/images", "dataset")
    parts = [f"data/train-0000{part}-of-00002.parquet" for part in range(2)]
    assert set(repo.files) == {".gitattributes", "README.md", *parts}
    assert "synthetic" in DatasetCard(repo.files["README.md"].decode()).data.tags
    found = worker.ask(images=["acme/images", "train"])
    assert found["names"] == list(bank.names)
    assert found["sha256"] == hashlib.sha256(bank.images.numpy().tobytes()).hexdigest()
    assert "license: write the license of this image bank" in refused(
        worker, place, "--license", "mit", name="acme/images"
    )
    # The datasets library asks a neighbor of the Hub for statistics, and does without.
    server.strangers[:] = [line for line in server.strangers if "://datasets-server.127.0.0.1" not in line]
    # Another number of parts: those of before must not be read as well.
    monkeypatch.undo()
    push(worker, write_bank(bank, tmp_path / "whole"), name="acme/images")
    assert set(repo.files) == {".gitattributes", "README.md", "data/train-00000-of-00001.parquet"}


def test_a_space(server, worker, tmp_path):
    push(worker, make_space(tmp_path / "app"), name="acme/demo")
    repo = server.repo("acme/demo", "space")
    shown = {"README.md", "app.py", "requirements.txt", "sub/part.py"}
    assert set(repo.files) == {".gitattributes", *shown}
    assert push(worker, tmp_path / "app", name="acme/demo").startswith("nothing to push")


def test_a_hub_that_states_no_hashes(server, worker, folder):
    """A file of the same size is sent where its content differs, and only there."""
    push(worker, folder)
    repo = server.repo(NAME)
    repo.names_blobs = False
    assert push(worker, folder).startswith("nothing to push")
    before = repo.files["config.yaml"]
    content = before.replace(b"r", b"s", 1)
    assert len(content) == len(before) and content != before
    (folder / "config.yaml").write_bytes(content)
    assert push(worker, folder).startswith("pushed 1 file ")
    assert repo.files["config.yaml"] == content
    assert push(worker, folder).startswith("nothing to push")


# ----------------------------------------------------------------------------------------------- refusals


FOREIGN = {
    "somebody's": {"README.md": b"# A model\n", "model.safetensors": b"x"},
    "without-card": {"model.safetensors": b"x"},
    "edited-front-matter-only": {"README.md": b"---\nlicense: mit\n---\n# Mine\n\n---\n"},
    "tagged-without-record": {"README.md": b"---\ntags:\n- abd-hub\n---\n", "x": b""},
    "not-yaml": {"README.md": b"---\n!!python/object/apply:os.system ['false']\n---\n"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_repository_is_refused(server, worker, folder, kind):
    commit = server.repo(NAME).commit(FOREIGN[kind])
    line = refused(worker, folder, "--force")
    assert f"repo_id: {NAME} holds" in line and "use another repository" in line
    assert server.repo(NAME).at("main").sha == commit and server.seen(*WRITING) == []


def test_a_repository_as_the_hub_s_page_makes_it_is_filled(server, worker, folder):
    server.repo(NAME).commit({"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    push(worker, folder)
    assert ModelCard(server.repo(NAME).files["README.md"].decode()).data.license == "cc-by-4.0"


def test_another_teacher_s_student_does_not_take_the_place_by_mistake(server, worker, folder):
    push(worker, folder)
    record = read_record(folder)
    change_record(folder, teacher=dataclasses.replace(record.teacher, id="org/other"))
    commit = server.repo(NAME).at("main").sha
    line = refused(worker, folder)
    assert "with teacher 'org/poisoned_resnet', not 'org/other'" in line and "--force" in line
    assert server.repo(NAME).at("main").sha == commit
    push(worker, folder, "--force")
    assert b"org/other" in server.repo(NAME).files["README.md"]


def test_a_teacher_does_not_take_a_student_s_place(server, worker, folder, poisoned):
    push(worker, folder)
    assert "holds a student, not a teacher" in refused(worker, poisoned)
    push(worker, poisoned, name="acme/teacher")
    assert "holds a teacher, not a student" in refused(worker, folder, name="acme/teacher")


def test_private_is_kept_and_not_pretended(server, worker, folder):
    push(worker, folder, "--private")
    assert server.repo(NAME).private
    push(worker, folder)
    assert server.repo(NAME).private
    push(worker, folder, name="acme/open")
    assert "private: acme/open exists and is public" in refused(worker, folder, "--private", name="acme/open")


def spoil(name, content):
    def change(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def link(folder):
    picture = folder / "samples" / "curves.png"
    picture.unlink()
    picture.symlink_to("/etc/passwd")


SPOILED = {
    "gone": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "weights": (spoil("model.safetensors", b"x"), "model.safetensors"),
    "record": (spoil("metrics.json", b"{}"), "schema_version"),
    "unfinished": (lambda folder: (folder / "metrics.json").unlink(), "is not finished"),
    "token": (spoil("config.yaml", b"token: hf_" + b"a" * 34), "seems to hold a token"),
    "link": (link, "is a link"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_folder_that_is_not_whole_never_leaves(server, worker, folder, kind):
    change, said = SPOILED[kind]
    change(folder)
    assert said in refused(worker, folder)
    assert server.requests == []


def test_other_folders_are_refused_by_name(worker, server, bank, tmp_path):
    assert "there is no folder" in refused(worker, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is neither a finished run nor" in refused(worker, tmp_path / "empty")
    space = make_space(tmp_path / "app")
    (space / "app.py").unlink()
    assert "has no 'app.py'" in refused(worker, space)
    assert "lack 'abd-hub'" in refused(worker, make_space(tmp_path / "other", "sdk: gradio\n"))
    images = write_bank(bank, tmp_path / "images")
    (part,) = (images / "data").iterdir()
    part.write_bytes(b"x")
    assert "is no Parquet file" in refused(worker, images)
    part.rename(part.with_name("train-00000-of-00002.parquet"))
    assert "are missing" in refused(worker, images)
    assert server.requests == []


@pytest.mark.parametrize("name", ["student", "a/b/c", "acme/", "acme/x y", "../x/y", "acme/" + "x" * 97])
def test_names_that_the_hub_does_not_take(server, worker, folder, name):
    assert "repo_id" in refused(worker, folder, name=name)
    assert server.seen(*WRITING) == []


# ------------------------------------------------------------------------------------------------- rights


def test_without_the_right_to_write(server, worker, folder):
    assert "token: nobody is logged in" in refused(worker, folder, token="")
    assert server.requests == []
    assert "token: may only read" in refused(worker, folder, token=READ)
    assert {seen.route for seen in server.requests} == {"whoami"}
    line = refused(worker, folder, token=NOTHING)
    assert "may not be written to with this token (403)" in line
    assert "401: the token is not valid" in refused(worker, folder, token="hf_unknown")
    assert server.repos == {}
    assert "(403)" in refused(worker, folder, name="others/student")


# ---------------------------------------------------------------------------------------- at the end of a run


@pytest.fixture
def run(tmp_path):
    """The arguments of a small distillation."""
    given = {
        "output_dir": str(tmp_path / "tiny"),
        "teacher": {"id": f"local-dir:{save_teacher(tmp_path / 'teacher')}"},
        "student": {"architecture": "wrn_10_1", "model_args": {"base_width": 4}},
        "synthesizer": "zskt",
        "zskt": {"rounds": 2, "batch_size": 4, "student_steps": 1, "generator_channels": 2},
        "purification": "none",
        "trainer": {"progress": False, "checkpoint_every": 0},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "tiny", ["distill", "--config", str(tmp_path / "run.yaml")]


def test_a_run_is_pushed_when_it_is_finished(server, worker, run):
    folder, words = run
    done = worker.ask(WRITE, command=[*words, "--push_to_hub=true", "--hub_private_repo=true"])
    assert done["code"] == 0, done
    repo = server.repo("acme/tiny")
    assert repo.private and repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    kept = (folder / "config.yaml").read_text() + (folder / "metrics.json").read_text()
    assert "push_to_hub" not in kept and "hub_" not in kept
    assert push(worker, folder, name="acme/tiny").startswith("nothing to push")


@pytest.mark.parametrize("token", ["", READ, "hf_unknown"])
def test_no_run_begins_that_could_not_be_pushed(server, worker, run, token):
    folder, words = run
    done = worker.ask(token, command=[*words, "--push_to_hub=true", f"--hub_model_id={NAME}"])
    assert done["code"] == 2 and len(done["shown"].splitlines()) == 1
    server.repo(NAME).commit(FOREIGN["somebody's"])
    done = worker.ask(WRITE, command=[*words, "--push_to_hub=true", f"--hub_model_id={NAME}"])
    assert done["code"] == 2 and "did not push" in done["shown"]
    assert not folder.exists()


def test_a_push_that_fails_in_the_end_leaves_a_finished_run(server, worker, run):
    folder, words = run
    server.fail("commit", 403, times=99)
    done = worker.ask(WRITE, command=[*words, "--push_to_hub=true", f"--hub_model_id={NAME}"])
    assert done["code"] == 2
    assert f"the run is finished; push it with 'abd-hub push {folder} {NAME}'" in done["shown"]
    server.clear()
    push(worker, folder)


def test_where_to_without_whether_to_is_refused(worker, run):
    done = worker.ask(command=[*run[1], f"--hub_model_id={NAME}"])
    assert done["code"] == 2 and "hub_model_id: is only used with push_to_hub" in done["shown"]
