"""Fixtures for a Hub of the tests' own, two processes that pull from it, and two teachers."""

import pytest
from hub_campaign import FaultyHub
from hub_worker import Worker
from pulls import save_teacher

SAID_OFFLINE = ("used all the same because allow_flagged is set", "latest cached")


@pytest.fixture(scope="session")
def running():
    with FaultyHub() as server:
        yield server


@pytest.fixture
def server(running):
    running.forget()
    yield running
    # The datasets library asks the Hub's own viewer, and does without.
    others = [line for line in running.strangers if not line.startswith("GET http://datasets-server.")]
    assert others == []


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def worker(running, cache):
    """Online; all tests share its cache, so each has a repository of its own."""
    started = Worker(running.environment(cache, HF_HUB_ETAG_TIMEOUT="4", HF_HUB_DOWNLOAD_TIMEOUT="4"))
    yield started
    assert "Traceback" not in started.close()


@pytest.fixture(scope="session")
def offline(running, cache):
    started = Worker(running.environment(cache, HF_HUB_OFFLINE="1"))
    yield started
    lines = [line for line in started.close().splitlines() if not any(word in line for word in SAID_OFFLINE)]
    assert lines == []


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teachers") / "first")


@pytest.fixture(scope="session")
def second(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teachers") / "second", seed=4)
