"""A Hub of the tests' own, a process that pushes to it, and folders that can be pushed."""

import poison_config
import pytest
from hub_campaign import FaultyHub
from hub_server import NOTHING, READ, WRITE
from hub_worker import Worker
from pushes import with_token
from student_folder import make_folder

from abd_hub import poison_teacher
from abd_hub.core.folder import write_config
from abd_hub.publish.bank_export import Bank


@pytest.fixture(scope="session")
def running():
    with FaultyHub() as server:
        yield server


@pytest.fixture
def server(running, tmp_path):
    running.forget()
    yield running
    assert running.strangers == []
    assert with_token(tmp_path) == []


@pytest.fixture(scope="session")
def pushing_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def worker(running, pushing_home):
    home = pushing_home
    patient = {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    started = Worker(running.environment(home, HF_HUB_DISABLE_PROGRESS_BARS="1", **patient))
    yield started
    shown = started.close()
    assert "Traceback" not in shown and not any(token in shown for token in (READ, WRITE, NOTHING))
    assert with_token(home) == []


@pytest.fixture
def folder(tmp_path):
    """A student's folder, with what lies beside it and must stay at home."""
    made = make_folder(tmp_path / "run")
    write_config(made, "output_dir: run\n")
    (made / "checkpoints").mkdir()
    (made / "checkpoints" / "round_00000005.pt").write_bytes(b"x")
    (made / "notes.txt").write_text("mine")
    (made / ".lock").write_bytes(b"")
    return made


@pytest.fixture(scope="session")
def poisoned(tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher") / "teacher"
    poison_teacher(poison_config.config(place))
    return place


@pytest.fixture
def bank():
    import torch

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, 3, 8, 8), generator=draw, dtype=torch.uint8)
    names = ("a", "b", "c")
    return Bank(images, torch.arange(9) % 3, names, "cmi", "org/teacher", "0" * 64, 4, True)
