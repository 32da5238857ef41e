"""Every test of a sweep works in a folder of its own."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in, where the processes of runs find these tests."""
    monkeypatch.chdir(tmp_path)
    paths = [str(ROOT / "tests" / "support"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def same_priority():
    """Ray gives its workers a low priority, at which they would wait for the other processes of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield
