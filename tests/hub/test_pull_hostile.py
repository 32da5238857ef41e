"""Hostile repositories run no code, write no files elsewhere and are refused in one line."""

import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
import yaml
from pulls import read
from safetensors.torch import load_file, save, save_file

from abd_hub import load_classifier
from abd_hub.core.errors import InputError

pytestmark = pytest.mark.hub_client


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


def test_a_folder_of_the_cache_may_be_a_link_of_the_users(server, worker, offline, cache, teacher, tmp_path):
    server.repo("acme/moved").commit(read(teacher))
    first = worker.load("acme/moved")
    folder = cache / "hub" / "models--acme--moved"
    shutil.move(folder, tmp_path / "other-disk")
    folder.symlink_to(tmp_path / "other-disk")
    for asked in (worker, offline):
        assert asked.load("acme/moved")["logits"] == first["logits"]


def test_an_index_in_a_local_folder_stays_inside(teacher, tmp_path):
    for name, data in leading_out(teacher, str(tmp_path / "other.safetensors")).items():
        (tmp_path / name).write_bytes(data)
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not beside it"):
        load_classifier(str(tmp_path))
