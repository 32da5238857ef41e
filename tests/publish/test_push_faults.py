"""Pushes to a Hub that is busy, breaks off or refuses: they go on, or end in one line with nothing half."""

import threading
import time

import pytest
from hub_worker import Worker, small_disk
from pushes import NAME, SENT, change_record, push, refused

ROUTES = ["whoami", "info", "create", "preupload", "lfs", "upload", "commit"]
BUSY = [(route, fault) for route in ROUTES for fault in (429, 500, 503, "cut", "lost")]
BUSY += [
    ("validate", 429),
    ("validate", 500),
    ("validate", "cut"),
    ("info", 404),
    ("commit", 409),
    ("commit", 412),
    ("upload", "damaged"),
    ("upload", 507),
]
LASTING = [(route, status) for route in ROUTES for status in (400, 401, 403, 404, 429, 500, 507)]
LASTING += [
    ("create", 409),
    ("validate", 500),
    ("commit", "cut"),
    ("upload", "damaged"),
    ("commit", 412),
    ("upload", 413),
]


def rows(faults, for_the_client):
    """Parameters; the client meets each kind of fault on each route, not with each number of its kind."""
    marks = dict.fromkeys(for_the_client, pytest.mark.hub_client)
    return [pytest.param(route, fault, marks=marks.get(fault, ())) for route, fault in faults]


def break_down(server, route, fault, times=1):
    if fault == "damaged":
        server.damage(times)
    elif fault in ("cut", "lost"):
        server.cut(route, times, after=10, later=fault == "lost")
    elif fault == 429:
        server.fail(route, 429, times, retry_after=0.1)
    else:
        server.fail(route, fault, times)


@pytest.mark.parametrize(("route", "fault"), rows(BUSY, (429, "cut", "lost", 404, 409, 412, "damaged", 507)))
def test_after_a_fault_it_goes_on_and_ends_well(server, worker, folder, route, fault):
    if (route, fault) == ("info", 404):
        server.repo(NAME)  # it is there, which the Hub says when it is asked to make it (409)
    break_down(server, route, fault)
    said = push(worker, folder)
    assert not any(fault.times for fault in server.faults), "the fault was never met"
    repo = server.repo(NAME)
    assert set(repo.files) == SENT | {".gitattributes"}
    assert len(repo.commits) == 2, "one commit for all"
    assert said.startswith(f"pushed {len(SENT)} files")


@pytest.mark.hub_client
@pytest.mark.parametrize("fault", [500, "cut", "lost", "damaged"])
@pytest.mark.parametrize("route", ["head", "resolve"])
def test_faults_of_the_look_at_what_is_there(server, worker, folder, route, fault):
    push(worker, folder)
    change_record(folder, rounds=7)
    server.clear()
    if fault == "damaged":
        server.corrupt("README.md")
    else:
        break_down(server, route, fault)
    push(worker, folder)
    assert b"7 rounds" in server.repo(NAME).files["README.md"]


@pytest.mark.parametrize(("route", "fault"), rows(LASTING, (403, 500, "cut", "damaged", 409, 412, 413)))
def test_a_lasting_fault_is_one_line_and_nothing_half(server, worker, folder, route, fault):
    push(worker, folder, name="acme/before")
    repo = server.repo("acme/before")
    before = dict(repo.commits)
    change_record(folder, rounds=7)
    (folder / "samples" / "curves.png").write_bytes(b"new")
    server.clear()
    break_down(server, route, fault, times=99)
    if route != "create":
        line = refused(worker, folder, name="acme/before")
        assert "acme/before" in line
        assert repo.commits == before
    line = refused(worker, folder, name="acme/new")
    assert "acme/new" in line
    new = server.repos.get(("model", "acme/new"))
    assert new is None or set(new.files) == {".gitattributes"}
    server.clear()
    push(worker, folder, name="acme/before")
    push(worker, folder, name="acme/new")
    assert server.repo("acme/new").files["samples/curves.png"] == b"new"


@pytest.mark.hub_client
def test_a_long_wait_that_the_hub_asks_for_is_told_at_once(server, worker, folder):
    for route in ROUTES:
        server.clear()
        server.fail(route, 429, retry_after=3600)
        began = time.monotonic()
        assert "requires a wait of 3600 seconds" in refused(worker, folder, name=f"acme/{route}"), route
        assert time.monotonic() - began < 60, "3600 are not waited for"


@pytest.mark.hub_client
def test_a_change_by_somebody_else_in_between_is_not_overwritten(server, worker, folder):
    push(worker, folder)
    repo = server.repo(NAME)
    change_record(folder, rounds=7)
    go_on = server.hold("commit")
    done = threading.Thread(target=push, args=(worker, folder))
    done.start()
    while not server.seen("commit"):
        time.sleep(0.01)
    other = repo.commit({"notes.txt": b"theirs"}, "theirs")
    go_on.set()
    done.join()
    assert repo.at("main").parent == other and repo.files["notes.txt"] == b"theirs"
    assert b"7 rounds" in repo.files["README.md"]


@pytest.mark.hub_client
def test_a_full_disk(server, worker, folder, tmp_path):
    """What the repository holds is read through the folder for temporary files."""
    push(worker, folder)
    commit = server.repo(NAME).at("main").sha
    change_record(folder, rounds=7)
    prefix = small_disk(tmp_path / "disk", "4k")
    small = Worker(server.environment(tmp_path / "home", TMPDIR=str(tmp_path / "disk")), prefix)
    line = refused(small, folder)
    assert "No space left" in line and str(tmp_path / "disk") in line and "TMPDIR" in line
    assert server.repo(NAME).at("main").sha == commit
    assert "Traceback" not in small.close()


@pytest.mark.hub_client
def test_a_file_that_the_repository_ignores_is_noticed(server, worker, folder):
    server.ignored = "metrics.json"
    line = refused(worker, folder)
    assert "does not hold metrics.json" in line and ".gitignore" in line
