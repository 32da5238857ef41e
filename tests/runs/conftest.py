"""A teacher in a folder of its own, and no cached data set from the test before."""

import datasets
import pytest
from tiny_teacher import save_teacher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Data sets are prepared beside the test's folder, which must stay as it is."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.parent / f"{tmp_path.name}-cache")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("bad") / "teacher")


@pytest.fixture
def place(tmp_path, teacher):
    """A folder with the teacher in it."""
    (tmp_path / "teacher").mkdir()
    for file in teacher.iterdir():
        (tmp_path / "teacher" / file.name).write_bytes(file.read_bytes())
    return tmp_path
