"""Teachers come from a Hub through real processes and a real server, within the limits and past its scan."""

import json

import pytest
import torch
from hub_server import READ
from pulls import read, same
from safetensors.torch import load_file

from abd_hub import load_classifier
from abd_hub.core.errors import InputError
from abd_hub.hub import pull

pytestmark = pytest.mark.hub_client


def test_a_pulled_teacher_is_the_local_one_and_nothing_else_is_fetched(server, worker, teacher):
    repo = server.repo("acme/plain")
    more = {"README.md": b"# x", "train.py": b"raise SystemExit", "pytorch_model.bin": b"x"}
    commit = repo.commit(read(teacher) | more | {"onnx/model.safetensors": b"x"})
    found = worker.load("acme/plain")
    assert same(found, worker.load(str(teacher)))
    assert (found["id"], found["revision"], found["scan"]) == ("acme/plain", commit, "nothing found")
    fetched = [request.path.rpartition("/resolve/")[2] for request in server.seen("resolve")]
    assert fetched == [f"{commit}/config.json", f"{commit}/model.safetensors"]
    server.clear()
    assert worker.load("hf-hub:acme/plain") == found
    assert server.seen("resolve", "head") == []  # it is in the cache


def test_transformers_in_parts(server, worker, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(tmp_path, max_shard_size="6KB")
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    server.repo("acme/vit").upload_folder(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = worker.load("acme/vit")
    assert same(found, worker.load(str(tmp_path))), found
    assert {request.path.rpartition("/")[2] for request in server.seen("resolve")} == {
        path.name for path in tmp_path.iterdir()
    }


def test_old_commits_and_branches(server, worker, offline, teacher, second):
    repo = server.repo("acme/old")
    one = repo.commit(read(teacher))
    repo.branch("side/one")
    two = repo.commit(read(second))
    first, newest = worker.load("acme/old", revision=one), worker.load("acme/old")
    assert (first["revision"], newest["revision"]) == (one, two)
    assert same(first, worker.load(str(teacher))) and same(newest, worker.load(str(second)))
    assert worker.load("acme/old@side/one") == first
    assert worker.load("acme/old", revision=two) == newest
    line = worker.refuses("acme/old", revision="nowhere")
    assert line == "revision: 'nowhere' does not exist in 'acme/old'; check the name"
    server.clear()
    for revision, wanted in ((one, first), (two, newest), ("side/one", first), ("main", newest)):
        assert offline.load("acme/old", revision=revision) == wanted | {"scan": None}
    assert offline.load("acme/old") == newest | {"scan": None}
    assert "not in the cache, and HF_HUB_OFFLINE is set" in offline.refuses("acme/old", revision="nowhere")
    assert "not in the cache, and HF_HUB_OFFLINE is set" in offline.refuses("acme/never")
    assert server.requests == []


def test_a_moved_branch_is_followed(server, worker, offline, teacher, second):
    repo = server.repo("acme/moved")
    repo.commit(read(teacher))
    before = worker.load("acme/moved")
    moved = repo.commit(read(second))
    assert worker.load("acme/moved")["revision"] == moved != before["revision"]
    assert offline.load("acme/moved")["revision"] == moved


def test_private_repositories_and_the_way_of_the_token(server, worker, teacher):
    server.redirects = True
    server.repo("acme/secret", private=True).commit(read(teacher))
    assert "log in with 'hf auth login'" in worker.refuses("acme/secret")
    assert "hf auth login" in worker.refuses("acme/secret", token="hf_unknowntoken")
    server.clear()
    found = worker.load("acme/secret", token=READ)
    assert same(found, worker.load(str(teacher)))
    assert {(seen.host, seen.token) for seen in server.seen("storage")} == {
        (f"localhost:{server.port}", None)
    }
    assert {seen.token for seen in server.seen("info", "head", "resolve")} == {READ}


def test_a_pickle_needs_permission(server, worker, teacher):
    tensors = load_file(teacher / "model.safetensors")
    torch.save(tensors, teacher.parent / "pytorch_model.bin")
    content = {
        "config.json": (teacher / "config.json").read_bytes(),
        "pytorch_model.bin": (teacher.parent / "pytorch_model.bin").read_bytes(),
    }
    server.repo("acme/pickle").commit(content)
    assert "no safetensors file; pass allow_pickle=true" in worker.refuses("acme/pickle")
    assert not any("pytorch" in seen.path for seen in server.requests)
    found = worker.load("acme/pickle", allow_pickle=True)
    assert found["logits"] == worker.load(str(teacher))["logits"]


def test_only_the_weights_of_a_trainers_repository_are_fetched(server, worker, teacher):
    tensors = load_file(teacher / "model.safetensors")
    torch.save(tensors, teacher.parent / "resnet.pth")
    content = {
        "config.json": (teacher / "config.json").read_bytes(),
        "resnet.pth": (teacher.parent / "resnet.pth").read_bytes(),
    }
    rest = (
        "optimizer.pt",
        "training_args.bin",
        "scheduler.pt",
        "rng_state.pth",
        "checkpoint-5/pytorch_model.bin",
    )
    server.repo("acme/trained").commit(content | dict.fromkeys(rest, b"x"))
    assert "pass allow_pickle=true" in worker.refuses("acme/trained")
    assert server.seen("resolve") == []
    assert worker.load("acme/trained", allow_pickle=True)["logits"] == worker.load(str(teacher))["logits"]
    fetched = {request.path.rpartition("/")[2] for request in server.seen("resolve")}
    assert fetched == {"config.json", "resnet.pth"}


def test_a_pickle_of_any_name_is_read_without_a_connection(server, worker, offline, teacher):
    torch.save(load_file(teacher / "model.safetensors"), teacher.parent / "best.pth")
    server.repo("acme/bare").commit({"best.pth": (teacher.parent / "best.pth").read_bytes()})
    spec = {"mean": [0.3] * 3, "std": [0.4] * 3, "input_size": 8, "model_args": {"base_width": 4}}
    options = {"allow_pickle": True, "architecture": "wrn_10_1", **spec}
    found = worker.load("acme/bare", **options)
    assert found["logits"] == worker.load(str(teacher))["logits"]
    assert offline.load("acme/bare", **options)["logits"] == found["logits"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter"),
        (["config.json", "onnx/model.onnx"], "weights for ONNX only"),
        (["config.json", "checkpoint-5/model.safetensors"], "in subfolders only (checkpoint-5)"),
        (["config.json", "one.safetensors", "two.safetensors"], "several weights files"),
        (["README.md"], "has no weights file"),
    ],
)
def test_repositories_without_weights_of_their_own(server, worker, files, words):
    name = f"acme/{len(words)}-{len(files)}"
    server.repo(name).commit(dict.fromkeys(files, b"{}"))
    assert words in worker.refuses(name, allow_pickle=True)
    assert server.seen("resolve", "head") == [], "before anything travels"


# --------------------------------------------------------------------------------------- scan and limits


def test_the_scan_of_the_hub(server, worker, offline, teacher):
    repo = server.repo("acme/flagged")
    repo.commit(read(teacher) | {"old.pkl": b"x"})
    repo.flag("model.safetensors", "safe")
    assert worker.load("acme/flagged")["scan"] == "nothing found"
    repo.scan["scansDone"] = False
    assert worker.load("acme/flagged")["scan"] == "not finished"
    repo.flag("old.pkl", "unsafe")
    server.clear()
    line = worker.refuses("acme/flagged")
    assert "the Hub's scan flags old.pkl (unsafe)" in line and "allow_flagged=true" in line
    assert server.seen("head", "resolve") == []
    found = worker.load("acme/flagged", allow_flagged=True)
    assert found["scan"] == "flagged: old.pkl (unsafe)"
    assert "the Hub's scan flags old.pkl" in offline.refuses("acme/flagged")
    assert offline.load("acme/flagged", allow_flagged=True)["scan"] == found["scan"]


def test_limits_before_the_weights(server, worker, teacher):
    server.repo("acme/heavy").commit(read(teacher))
    server.repo("acme/heavy").sizes["model.safetensors"] = 6 * 10**9
    line = worker.refuses("acme/heavy")
    assert "max_size_gb: 'acme/heavy' needs 6.00 GB, more than 5" in line
    assert server.seen("head", "resolve") == []
    server.repo("acme/light").commit(read(teacher))
    assert "max_size_gb" in worker.refuses("acme/light", max_size_gb=1e-6)
    assert "max_size_gb: must be above 0" in worker.refuses("acme/light", max_size_gb=0)
    assert "logits" in worker.load("acme/light", max_size_gb=1e-3)
    server.repo("acme/wordy").commit(read(teacher))
    server.repo("acme/wordy").sizes["config.json"] = 10**8
    assert "config.json of 'acme/wordy' has 100 MB" in worker.refuses("acme/wordy")


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18", "num_classes": 10**9},
        {"architecture": "resnet18", "pretrained_cfg": {"num_classes": 10**9}},
        {"model_type": "vit", "num_labels": 10**9},
        {"model_type": "vit", "id2label": {str(i): "x" for i in range(100_001)}},
    ],
)
def test_absurd_numbers_of_classes(server, worker, teacher, config):
    content = json.dumps(config).encode()
    server.repo("acme/many").commit(read(teacher) | {"config.json": content})
    assert "at most 100,000 are possible" in worker.refuses("acme/many")
    assert not any("model.safetensors" in seen.path for seen in server.requests)


def test_absurd_numbers_of_classes_in_a_local_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_labels": 10**9}))
    with pytest.raises(InputError, match="at most 100,000"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a\\..\\b", "C:x", "a\nb"])
def test_revisions_are_names(revision):
    with pytest.raises(InputError, match="revision"):
        pull.fetch("acme/plain", revision)
