"""Broken networks, busy and silent Hubs, damaged files and full disks end well or in one line."""

import hashlib
import time

import pytest
import torch
from hub_worker import Worker, small_disk
from pulls import read, same, save_teacher
from safetensors.torch import save

MIB = 2**20


pytestmark = pytest.mark.hub_client


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


def test_what_has_arrived_outlives_the_process(server, running, worker, cache, tmp_path):
    """Another process with the same cache goes on."""
    folder = save_teacher(tmp_path / "wide", width=100)
    server.repo("acme/killed").upload_folder(folder)
    server.cut("resolve", times=99, after=10 * MIB + 1000, path="model.safetensors")
    arriving = cache / "hub" / "models--acme--killed"
    first = Worker(running.environment(cache))
    first.begin(source="acme/killed", options={})
    until = time.monotonic() + 300
    while not any(p.stat().st_size >= 10 * MIB for p in arriving.rglob("*.incomplete")):
        assert time.monotonic() < until
        time.sleep(0.01)
    first.process.kill()
    first.process.wait()
    server.clear()
    assert same(worker.load("acme/killed"), worker.load(str(folder)))
    ranges = [seen.range for seen in server.seen("resolve") if "model" in seen.path]
    assert ranges == [f"bytes={10 * MIB}-"]
    assert not list(arriving.rglob("*.incomplete"))


def test_a_part_of_something_else_is_thrown_away(server, worker, cache, tmp_path):
    folder = save_teacher(tmp_path / "wide", width=100)
    server.repo("acme/other").upload_folder(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    blobs = cache / "hub" / "models--acme--other" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{digest}.incomplete").write_bytes(b"x" * 10 * MIB)
    assert same(worker.load("acme/other"), worker.load(str(folder)))


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
