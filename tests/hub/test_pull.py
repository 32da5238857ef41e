"""Teachers from a Hub, through real processes and a real server: good ones, broken networks, hostile ones."""

import hashlib
import json
import os
import pickle
import shutil
import time

import pytest
import torch
import yaml
from hub_server import READ, HubServer
from hub_worker import Worker, small_disk
from safetensors.torch import load_file, save, save_file

from abd_hub import DataSpec, create_student, load_classifier, save_timm_folder
from abd_hub.core.errors import InputError
from abd_hub.hub import pull

DIGITS = tuple("0123456789")
MIB = 2**20
pytestmark = pytest.mark.hub_client


@pytest.fixture(scope="module")
def running():
    with HubServer() as server:
        yield server


@pytest.fixture
def server(running):
    running.forget()
    yield running
    assert running.strangers == []


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def worker(running, cache):
    """Online; all tests share its cache, so each has a repository of its own."""
    started = Worker(running.environment(cache, HF_HUB_ETAG_TIMEOUT="4", HF_HUB_DOWNLOAD_TIMEOUT="4"))
    yield started
    assert "Traceback" not in started.close()


@pytest.fixture(scope="module")
def offline(running, cache):
    started = Worker(running.environment(cache, HF_HUB_OFFLINE="1"))
    yield started
    lines = started.close().splitlines()
    assert all("used all the same because allow_flagged is set" in line for line in lines), lines


def save_teacher(folder, seed=3, width=4):
    spec = DataSpec(3, 8, 8, DIGITS)
    args = {"base_width": width}
    made = create_student("wrn_10_1", spec, (0.3,) * 3, (0.4,) * 3, seed=seed, model_args=args).eval()
    save_timm_folder(made, folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teachers") / "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teachers") / "second", seed=4)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(pulled, local):
    """The same weights and, to the bit, the same logits."""
    return (pulled.get("logits"), pulled.get("sha256")) == (local["logits"], local["sha256"])


# --------------------------------------------------------------------------------------------------- good


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


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("route", "status", "times"),
    [(r, s, t) for r in ("info", "head", "resolve") for s, t in ((500, 2), (503, 1), (429, 2))],
)
def test_a_busy_hub_is_asked_again(server, worker, teacher, route, status, times):
    name = f"acme/busy-{route}-{status}"
    server.repo(name).commit(read(teacher))
    server.fail(route, status, times=times)
    assert worker.load(name)["revision"] == server.repo(name).at("main").sha
    assert not any(fault.times for fault in server.faults)


@pytest.mark.parametrize("route", ["info", "head", "resolve"])
def test_the_hub_says_how_long_to_wait_and_is_heard_within_bounds(server, worker, teacher, route):
    name = f"acme/wait-{route}"
    server.repo(name).commit(read(teacher))
    server.fail(route, 429, retry_after=3600)
    began = time.monotonic()
    line = worker.refuses(name)
    assert repr(name) in line and "the Hub answers 429, too many requests" in line
    assert "requires a wait of 3600 seconds" in line
    assert time.monotonic() - began < 60, "3600 are not waited for"
    server.fail(route, 429, retry_after=1)
    began = time.monotonic()
    assert "logits" in worker.load(name)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "hf auth login"),
        (403, "is forbidden (403); use a token that may read it"),
        (404, "not on the Hub, or is private; check the name"),
        (500, "the Hub answers 500; "),
        (429, "answers 429, too many requests; "),
        (409, "the Hub answers 409; try again later"),
        (418, "the Hub answers 418; try again later"),
    ],
)
@pytest.mark.parametrize("route", ["info", "head", "resolve"])
def test_a_refusal_is_one_line(server, worker, teacher, route, status, said):
    name = f"acme/no-{route}-{status}"
    server.repo(name).commit(read(teacher))
    server.fail(route, status, times=99)
    line = worker.refuses(name)
    assert repr(name) in line and said in line
    server.clear()
    assert "logits" in worker.load(name)


def test_a_gated_repository(server, worker, teacher):
    server.repo("acme/gated").commit(read(teacher))
    server.fail("info", 403, X_Error_Code="GatedRepo")
    assert "is gated; accept its conditions on its page" in worker.refuses("acme/gated")


def test_a_cut_download_goes_on_where_it_was(server, worker, tmp_path):
    """The client keeps whole pieces of 10 MiB."""
    folder = save_teacher(tmp_path / "wide", width=100)
    assert (folder / "model.safetensors").stat().st_size > 11 * MIB
    server.repo("acme/wide").upload_folder(folder)
    server.cut("resolve", after=10 * MIB + 1000, path="model.safetensors")
    assert same(worker.load("acme/wide"), worker.load(str(folder)))
    ranges = [seen.range for seen in server.seen("resolve") if "model" in seen.path]
    assert ranges == [None, f"bytes={10 * MIB}-"]


def test_what_has_arrived_outlives_the_process(server, running, tmp_path):
    folder = save_teacher(tmp_path / "wide", width=100)
    server.repo("acme/killed").upload_folder(folder)
    server.cut("resolve", times=99, after=10 * MIB + 1000, path="model.safetensors")
    environment = running.environment(tmp_path / "home")
    first = Worker(environment)
    first.begin(source="acme/killed", options={})
    until = time.monotonic() + 300
    while not any(p.stat().st_size >= 10 * MIB for p in (tmp_path / "home").rglob("*.incomplete")):
        assert time.monotonic() < until
        time.sleep(0.01)
    first.process.kill()
    first.process.wait()
    server.clear()
    second = Worker(environment)
    assert same(second.load("acme/killed"), second.load(str(folder)))
    ranges = [seen.range for seen in server.seen("resolve") if "model" in seen.path]
    assert ranges == [f"bytes={10 * MIB}-"]
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    assert "Traceback" not in second.close()


def test_a_part_of_something_else_is_thrown_away(server, running, tmp_path):
    folder = save_teacher(tmp_path / "wide", width=100)
    server.repo("acme/other").upload_folder(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    blobs = tmp_path / "home" / "hub" / "models--acme--other" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{digest}.incomplete").write_bytes(b"x" * 10 * MIB)
    started = Worker(running.environment(tmp_path / "home"))
    assert same(started.load("acme/other"), started.load(str(folder)))
    assert "Traceback" not in started.close()


@pytest.mark.parametrize("route", ["info", "head"])
def test_a_cut_answer_is_asked_for_again(server, worker, teacher, route):
    name = f"acme/cut-{route}"
    server.repo(name).commit(read(teacher))
    server.cut(route, after=20)
    assert "logits" in worker.load(name)


@pytest.mark.parametrize("route", ["info", "resolve"])
def test_a_silent_hub(server, worker, teacher, route):
    name = f"acme/silent-{route}"
    server.repo(name).commit(read(teacher))
    server.stall(route, 5)
    assert "logits" in worker.load(name)


def test_the_cache_helps_where_the_hub_fails(server, worker, teacher):
    server.repo("acme/warm").commit(read(teacher))
    found = worker.load("acme/warm")
    server.fail("info", 500, times=99)
    assert worker.load("acme/warm") == found | {"scan": None}
    server.clear()
    server.fail("info", 403)
    assert "is forbidden (403)" in worker.refuses("acme/warm")


def test_damaged_files_are_fetched_again_or_refused(server, worker, offline, teacher):
    server.repo("acme/damaged").commit(read(teacher))
    server.corrupt("model.safetensors", times=2)
    line = worker.refuses("acme/damaged")
    assert "arrived damaged: its hash is not the stated one" in line
    assert "in the cache only in part" in offline.refuses("acme/damaged", revision=commit_of(server))
    server.corrupt("model.safetensors", times=1)
    assert same(worker.load("acme/damaged"), worker.load(str(teacher)))


def commit_of(server, name="acme/damaged"):
    return server.repo(name).at("main").sha


def test_a_full_disk(server, teacher, tmp_path):
    """On a disk of 200 kB: refused beforehand, and also where the Hub understates the size."""
    prefix = small_disk(tmp_path / "disk", "200k")
    big = save({"weight": torch.rand(100_000)})
    for name in ("acme/large", "acme/lying"):
        server.repo(name).commit(read(teacher) | {"model.safetensors": big})
    server.repo("acme/lying").sizes["model.safetensors"] = 1000
    small = Worker(server.environment(tmp_path / "disk"), prefix)
    assert "the disk of the cache has" in small.refuses("acme/large")
    assert "the disk of the cache is full; free some" in small.refuses("acme/lying")
    small.close()


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


# ------------------------------------------------------------------------------------------------ hostile


class Payload:
    """Runs a command as soon as somebody unpickles it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def with_weights(teacher, data):
    return read(teacher) | {"model.safetensors": data}


def lying_header(size=None, end=4):
    entry = {"weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, end]}}
    header = json.dumps(entry).encode()
    return (size or len(header)).to_bytes(8, "little") + header + b"\0" * 4


def nan_weights(teacher):
    tensors = load_file(teacher / "model.safetensors")
    next(tensor for tensor in tensors.values() if tensor.ndim > 1)[0] = float("nan")
    return save(tensors)


def remote_code(marker):
    code = f"open({str(marker)!r}, 'w')\nclass Evil: pass\n"
    config = {"model_type": "evil", "architectures": ["Evil"]}
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForImageClassification": "evil.Evil"}
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    return {
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": json.dumps(about).encode(),
        "evil.py": code.encode(),
        "model.safetensors": save({"weight": torch.zeros(1)}),
    }


def leading_out(teacher, target):
    """An index that names a file elsewhere."""
    config = {"model_type": "vit", "num_labels": 2}
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    index = {"weight_map": {"weight": f"../../../../../../../..{target}"}}
    return {
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": json.dumps(about).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00001.safetensors": save({"weight": torch.zeros(1)}),
    }


HOSTILE = {
    "pickle": (
        lambda t, m: {
            "config.json": read(t)["config.json"],
            "pytorch_model.bin": pickle.dumps(Payload(m)),
        },
        "holds more than tensors or is damaged",
    ),
    "pickle-under-another-name": (
        lambda t, m: with_weights(t, pickle.dumps(Payload(m))),
        "is not a safetensors file",
    ),
    "header-of-huge-shapes": (lambda t, m: with_weights(t, lying_header()), "is not a safetensors file"),
    "header-of-huge-length": (
        lambda t, m: with_weights(t, lying_header(size=2**62)),
        "is not a safetensors file",
    ),
    "header-of-huge-offsets": (
        lambda t, m: with_weights(t, lying_header(end=2**60)),
        "is not a safetensors file",
    ),
    "path-upwards": (lambda t, m: read(t) | {"../../../model.safetensors": b"x"}, "leads out of its folder"),
    "path-absolute": (lambda t, m: read(t) | {str(m): b"x"}, "leads out of its folder"),
    "path-of-windows": (lambda t, m: read(t) | {"..\\..\\x": b"x"}, "leads out of its folder"),
    "remote-code": (lambda t, m: remote_code(m), "code in a checkpoint is never run"),
    "classes": (
        lambda t, m: read(t) | {"config.json": b'{"architecture": "resnet18", "num_classes": 1000000000}'},
        "at most 100,000 are possible",
    ),
    "nesting": (lambda t, m: read(t) | {"config.json": b"[" * 200_000}, "cannot be read as JSON"),
    "not-a-number": (lambda t, m: with_weights(t, nan_weights(t)), "holds NaN or infinity"),
    "link": (lambda t, m: with_weights(t, b"/etc/passwd"), "is not a safetensors file"),
    "index": (lambda t, m: leading_out(t, "/etc/passwd"), "which is not beside it"),
}


def tree(*folders):
    """Every file below, with its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if "hub" not in path.relative_to(folder).parts[:1]
    }


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_repository_is_refused_in_one_line(server, worker, cache, teacher, tmp_path, kind):
    make, said = HOSTILE[kind]
    marker = tmp_path / "ran"
    server.repo(f"acme/{kind}").commit(make(teacher, marker))
    given = {
        "output_dir": str(tmp_path / "out"),
        "teacher": {"id": f"acme/{kind}", "allow_pickle": True},
        "synthesizer": "zskt",
        "trainer": {"progress": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    evaluate = ["evaluate", f"acme/{kind}", "--dataset", "digits", "--allow_pickle", "true"]
    before = tree(tmp_path, cache)
    for arguments in (evaluate, ["distill", "--config", str(tmp_path / "run.yaml")]):
        done = worker.ask(command=arguments)
        assert done["code"] == 2, done
        (line,) = done["shown"].splitlines()
        assert line.startswith("abd-hub: ") and said in line
    assert not marker.exists()
    assert tree(tmp_path, cache) == before
    written = {path.name for path in (cache / "hub").iterdir()}
    assert all(name.startswith(("models--acme--", ".locks", "CACHEDIR")) for name in written)


def test_a_link_in_the_cache_that_leads_out_is_refused(server, worker, offline, cache, teacher, tmp_path):
    commit = server.repo("acme/planted").commit(read(teacher))
    worker.load("acme/planted")
    outside = tmp_path / "model.safetensors"
    shutil.copy(teacher / "model.safetensors", outside)
    planted = cache / "hub" / "models--acme--planted" / "snapshots" / commit / "model.safetensors"
    planted.unlink()
    planted.symlink_to(outside)
    for asked in (worker, offline):
        assert "leads out of the cache" in asked.refuses("acme/planted")


def test_an_index_in_a_local_folder_stays_inside(teacher, tmp_path):
    for name, data in leading_out(teacher, str(tmp_path / "other.safetensors")).items():
        (tmp_path / name).write_bytes(data)
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not beside it"):
        load_classifier(str(tmp_path))
