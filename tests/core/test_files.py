"""Files appear whole or not at all, and what a broken run left behind is cleaned up."""

import os
import stat
import subprocess
import sys

import pytest
from folders import tree

from abd_hub.core import files
from abd_hub.core.errors import InputError


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert tree(tmp_path) == ["file.txt"]


def test_atomic_path_takes_folders_too(tmp_path):
    with files.atomic_path(tmp_path / "deep" / "state") as temporary:
        temporary.mkdir()
        (temporary / "a.bin").write_bytes(b"1")
    assert tree(tmp_path) == ["deep", "deep/state", "deep/state/a.bin"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    target = tmp_path / "file.bin"
    writer = (
        "import sys\nfrom abd_hub.core.files import write_bytes\n"
        "while True:\n    [write_bytes(sys.argv[1], bytes([i]) * 100_000) for i in range(9)]\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(target)])
    try:
        while not target.exists():
            assert process.poll() is None
        for _ in range(200):
            data = target.read_bytes()
            assert len(data) == 100_000
            assert len(set(data)) == 1
    finally:
        process.kill()
        process.wait()
    files.clean_temporaries(tmp_path)
    assert tree(tmp_path) == ["file.bin"]


def test_cleaning_takes_only_our_temporaries(tmp_path):
    keep = [".abd-tmp-notes", "x.tmp", f"abd-tmp-{'0' * 16}-a"]
    for name in [*keep, f".abd-tmp-{'a' * 16}-state"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    files.clean_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_of_the_umask(tmp_path, umask):
    """Whatever mode their writer gave them."""
    before = os.umask(umask)
    try:
        with files.atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            for name, mode in (("closed", 0o600), ("open", 0o666)):
                (temporary / name).write_text("x")
                (temporary / name).chmod(mode)
        files.write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    made = [tmp_path / "folder" / "closed", tmp_path / "folder" / "open", tmp_path / "file"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o666 & ~umask}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_json_is_read_from_regular_files_of_bounded_size(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(files.MOST_JSON_BYTES + 1)
    for name in ("pipe", "large", "."):
        with pytest.raises(InputError, match="is no regular file of at most 100 MB; restore the file"):
            files.read_json(tmp_path / name)
    (tmp_path / "good").write_text('{"a": 1}')
    assert files.read_json(tmp_path / "good") == {"a": 1}


def test_what_a_kill_leaves_of_a_probe_stops_nobody(tmp_path):
    (tmp_path / "state.mode").touch()
    (tmp_path / "state").mkdir()
    files.settle(tmp_path / "state")
    assert tree(tmp_path) == ["state"]


def test_what_safetensors_leaves_is_cleaned(tmp_path):
    (tmp_path / ".tmpYeEwy7").touch()
    (tmp_path / ".tmpmine").touch()
    files.clean_temporaries(tmp_path)
    assert tree(tmp_path) == [".tmpmine"]
