"""The output folder opens for one run at a time and leaves what belongs to others alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from folders import tree

from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.folder import OutputFolder, check_begin, check_file, check_folder, fcntl, write_config

CONFIG = "seed: 0\nteacher:\n  id: a/b\nresume: false\n"
HOLDER = """
import sys, time
from abd_hub.core.folder import OutputFolder
with OutputFolder.open(sys.argv[1], resume=False, config_yaml=sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def begin(path, resume=False, config=CONFIG):
    return OutputFolder.open(path, resume=resume, config_yaml=config)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_begins(tmp_path, resume, exists):
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    with begin(path, resume) as folder:
        assert folder.begun_here
        assert (path / "config.yaml").read_text() == "# abd-hub run\n" + CONFIG
    assert tree(path) == ["config.yaml"]


def test_an_unfinished_run_goes_on_only_when_asked(tmp_path):
    path = tmp_path / "run"
    begin(path).close()
    with pytest.raises(InputError, match="--resume or"):
        begin(path)
    (path / "samples").mkdir()
    (path / "samples" / f".abd-tmp-{'0' * 16}-x.png").write_bytes(b"half")
    (path / "log.jsonl").write_text("{}\n")
    with begin(path, resume=True) as folder:
        assert not folder.begun_here
    assert tree(path) == ["config.yaml", "log.jsonl", "samples"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (CONFIG.replace("a/b", "a/c"), r"teacher\.id: is 'a/c' now and was 'a/b'"),
        (CONFIG + "extra: 1\n", "extra"),
        (CONFIG.replace("seed: 0\n", ""), "seed"),
    ],
)
def test_resuming_something_else_is_refused(tmp_path, config, field):
    path = tmp_path / "run"
    begin(path).close()
    with pytest.raises(InputError, match=field):
        begin(path, resume=True, config=config)
    assert tree(path) == ["config.yaml"]
    assert "a/b" in (path / "config.yaml").read_text()


@pytest.mark.parametrize(("value", "goes_on"), [("null", True), ("false", True), ("[]", True), ("0", False)])
def test_a_run_from_before_an_option_goes_on_while_it_is_off(tmp_path, value, goes_on):
    begin(tmp_path / "run").close()
    config = CONFIG.replace("id: a/b", f"id: a/b\n  new: {value}")
    if goes_on:
        begin(tmp_path / "run", resume=True, config=config).close()
        return
    with pytest.raises(InputError, match=r"teacher\.new: is 0 now"):
        begin(tmp_path / "run", resume=True, config=config)


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        ("every: 0\n  every_images: 1000", None),
        ("every: 5\n  every_images: 1000", r"evaluation\.every: is 5 now"),
        ("trigger_on: image", None),
        ("trigger_on: input", r"evaluation\.trigger_on: is 'input' now"),
    ],
)
def test_a_run_from_before_a_setting_existed_goes_on_with_what_it_did(tmp_path, later, fault):
    before = f"{CONFIG}evaluation:\n  dataset: digits\n"
    begin(tmp_path / "run", config=before).close()
    config = f"{before}  {later}\n"
    if fault is None:
        begin(tmp_path / "run", resume=True, config=config).close()
        return
    with pytest.raises(InputError, match=fault):
        begin(tmp_path / "run", resume=True, config=config)


def test_resume_itself_may_differ(tmp_path):
    begin(tmp_path / "run").close()
    begin(tmp_path / "run", resume=True, config=CONFIG.replace("false", "true")).close()


def make_file(path):
    path.write_text("mine")


def make_foreign(path):
    path.mkdir()
    (path / "photo.jpg").write_bytes(b"x")


def make_foreign_config(path):
    path.mkdir()
    (path / "config.yaml").write_text("model: mine\n")


def make_finished(path):
    begin(path).close()
    files.write_json(path / "metrics.json", {})


def make_dangling(path):
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_file, "is a file"),
        (make_foreign, "did not write"),
        (make_foreign_config, "did not write"),
        (make_finished, "finished"),
        (make_dangling, "link to nowhere"),
    ],
)
def test_what_may_not_be_used_stays_as_it_is(tmp_path, resume, make, message):
    path = tmp_path / "run"
    make(path)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        begin(path, resume)
    assert "\n" not in str(error.value)
    assert "--output_dir" in str(error.value)
    assert tree(tmp_path) == before


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        begin(tmp_path / "file" / "run")


def test_a_parent_without_write_permission_is_refused(tmp_path, monkeypatch):
    # The superuser may write everywhere, so the answer of the operating system is played.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="not writable"):
        begin(tmp_path / "run")
    assert tree(tmp_path) == []


def make_empty(path):
    path.mkdir()


def make_leftover(path):
    path.mkdir()
    (path / ".lock").touch()


ABSENT, EMPTY, OWN = {"none", "empty", "own"}, {"empty", "own"}, {"own"}


@pytest.mark.parametrize(
    ("make", "allowed", "message"),
    [
        (lambda path: None, ABSENT, ""),
        (make_empty, EMPTY, "exists already"),
        (make_leftover, EMPTY, "exists already"),
        (make_finished, OWN, "exists already|is not an empty folder"),
        (make_foreign, set(), "exists already|is not an empty folder|holds files that abd-hub did not write"),
        (make_file, set(), "is a file"),
        (make_dangling, set(), "is a link to nowhere"),
    ],
)
@pytest.mark.parametrize("existing", ["none", "empty", "own"])
def test_which_folders_may_be_used(tmp_path, make, allowed, message, existing):
    path = tmp_path / "run"
    make(path)
    before = tree(tmp_path)
    if existing in allowed:
        check_folder(path, "folder", existing=existing)
    else:
        with pytest.raises(InputError, match=rf"^folder: {path} ({message}); name a new one$"):
            check_folder(path, "folder", existing=existing, remedy="name a new one")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new.png", None),
        ("old.PNG", None),
        ("new.jpg", "{path} must end in .png; only PNG is written"),
        ("folder.png", "{path} is a folder; move it away or name another file"),
        ("no/new.png", "there is no folder {path.parent}; make it or name another file"),
        ("old.PNG/new.png", "there is no folder {path.parent}; make it or name another file"),
        ("x" * 300 + ".png", "{path} cannot be used (File name too long); name another file"),
    ],
)
def test_which_files_may_be_written(tmp_path, name, message):
    (tmp_path / "old.PNG").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    before = tree(tmp_path)
    path = tmp_path / name
    if message is None:
        check_file(path, "picture", suffix=".png")
    else:
        with pytest.raises(InputError) as error:
            check_file(path, "picture", suffix=".png")
        assert str(error.value) == f"picture: {message.format(path=path)}"
    assert tree(tmp_path) == before


def test_a_file_in_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"^picture: {tmp_path} is not writable; name another file$"):
        check_file(tmp_path / "new.png", "picture")


@pytest.mark.parametrize("place", ["/proc/run", "x" * 300 + "/run"])
def test_what_the_system_refuses_is_one_line(place):
    with pytest.raises(InputError, match="output_dir"):
        begin(Path(place))


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("abd_hub.core.folder.write_text", full)
    with pytest.raises(InputError, match="No space left"):
        begin(tmp_path / "deep" / "run")
    assert tree(tmp_path) == []


def test_a_run_that_fails_at_once_takes_its_folder_back(tmp_path):
    with pytest.raises(RuntimeError), begin(tmp_path / "deep" / "run"):
        raise RuntimeError
    assert tree(tmp_path) == []


def test_a_run_that_fails_later_keeps_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError), begin(tmp_path / "run") as folder:
        files.write_text(folder.path / "log.jsonl", "{}\n")
        raise RuntimeError
    assert tree(tmp_path / "run") == ["config.yaml", "log.jsonl"]


def hold(path):
    command = [sys.executable, "-c", HOLDER, str(path), CONFIG]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_at_a_time_and_sigkill_frees_the_folder(tmp_path):
    path = tmp_path / "run"
    process = hold(path)
    try:
        before = tree(path)
        for resume in (False, True):
            with pytest.raises(InputError, match="in use by another process"):
                begin(path, resume)
        assert tree(path) == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    begin(path, resume=True).close()
    assert tree(path) == ["config.yaml"]


def test_of_many_that_come_at_once_one_gets_in(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "deep" / "run"), CONFIG]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    try:
        # The losers end by themselves; the winner would hold on for a minute.
        losers = 0
        while losers < 5:
            for process in [p for p in processes if p.returncode is None]:
                losers += process.poll() is not None
        running = [process for process in processes if process.returncode is None]
        assert [process.stdout.readline() for process in running] == ["held\n"]
        errors = [process.stderr.read() for process in processes if process.returncode is not None]
        assert all("InputError" in error for error in errors)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch, again):
    begin(tmp_path / "run").close()
    lock, real = tmp_path / "run" / ".lock", fcntl.flock

    def late(*arguments):
        # The former holder leaves, and perhaps another comes, between opening and locking.
        lock.unlink()
        if again:
            lock.write_text("")
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="in use"):
        begin(tmp_path / "run", resume=True)


def test_a_run_killed_before_its_last_file_is_completed(tmp_path):
    """The record is written before the configuration without paths; an edit since then stays."""
    write_config(tmp_path, "seed: 0\nteacher: local-dir:./a\n")
    files.write_json(tmp_path / "metrics.json", {"config": {"seed": 0, "teacher": "local-dir:a"}})
    config = tmp_path / "config.yaml"
    for text in ("teacher: local-dir:a\n", "teacher: mine\n"):
        with pytest.raises(InputError, match="finished run"):
            check_begin(tmp_path, resume=True)
        assert config.read_text().endswith(text)
        write_config(tmp_path, "seed: 0\nteacher: mine\n")
        os.utime(config, ns=(2**62, 2**62))
