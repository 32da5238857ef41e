"""Files appear whole or not at all, and what a broken run left behind is cleaned up."""

import subprocess
import sys

import pytest
from folders import tree

from abd_hub.core import files


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
