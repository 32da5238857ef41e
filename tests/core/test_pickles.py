"""One list says which files are pickles, wherever files of strangers are taken."""

import shutil

import pytest
from abd_hub_app.shelf import load_shelf
from abd_hub_app.sources import _refuse_pickles
from app_server import MODELS

from abd_hub import InputError, is_pickle, load_classifier
from abd_hub.core.pickles import PICKLE_SUFFIXES
from abd_hub.hub.choice import PICKLED_WEIGHTS, choose_files

NAMES = [f"weights{suffix}" for suffix in (*PICKLE_SUFFIXES, ".PKL", ".Bin")]


def test_the_list_is_complete():
    assert set(PICKLE_SUFFIXES) >= {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar"}
    assert not any(
        map(is_pickle, ("model.safetensors", "config.json", "bin", ".pth/config.json", "a.pth.json"))
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_is_read_without_permission(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"^weights: {name} is a pickle"):
        load_classifier(str(tmp_path / name), architecture="resnet18", mean=[0], std=[1], input_size=8)
    with pytest.raises(InputError, match="is a pickle, which can run code"):
        _refuse_pickles("folder", [name], "leave it out")

    shutil.copytree(MODELS / "plain", tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"holds '{name}', a pickle"):
        load_shelf([tmp_path / "model"])


def test_no_pickle_is_fetched_without_permission():
    for group in PICKLED_WEIGHTS:
        names = [pattern.replace("*", "-1") for pattern in group]
        assert all(is_pickle(name.removesuffix(".index.json")) for name in names)
        assert choose_files(names, allow_pickle=False) == []
        assert sorted(choose_files(names, allow_pickle=True)) == sorted(names)
