"""A run goes on from its newest whole checkpoint, and from no half of one."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import resumes
from launcher import two_processes

from abd_hub import InputError
from abd_hub.learning import checkpoint

SUPPORT = Path(__file__).parents[1] / "support"


def cut(path):
    os.truncate(path / "state.safetensors", 300)


def cut_text(path):
    os.truncate(path / "state.json", (path / "state.json").stat().st_size // 2)


def emptied(path):
    (path / "state.json").write_bytes(b"")


def without_a_file(path):
    (path / "state.safetensors").unlink()


def of_another_round(path):
    shutil.rmtree(path)
    shutil.copytree(sorted(path.parent.glob("round-*"))[0], path)


def one_byte_changed(path):
    content = bytearray((path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "state.safetensors").write_bytes(content)


def one_digit_changed(path):
    text = (path / "state.json").read_text()
    assert '"constant_rate"' in text or '"logged_epoch"' in text
    (path / "state.json").write_text(text.replace("[0, ", "[1, ").replace('"value": 0', '"value": 1'))


def a_list(path):
    (path / "state.json").write_text("[]")


DAMAGES = [cut, cut_text, emptied, without_a_file, of_another_round, one_byte_changed, one_digit_changed]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of each trainer with three checkpoints, and the hashes of their weights."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "student").mkdir()
    (folder / "teacher").mkdir()
    return folder, {name: resumes.trained(name, folder / name) for name in resumes.MAKERS}


def saved(folder):
    return checkpoint.checkpoints(folder / "checkpoints")


@pytest.mark.parametrize("damage", [*DAMAGES, a_list], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", list(resumes.MAKERS))
def test_the_checkpoint_before_is_taken(whole, tmp_path, caplog, name, damage):
    folder = shutil.copytree(whole[0] / name, tmp_path / name)
    first, second, last = saved(folder)
    damage(last)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=last.name):
        checkpoint.load(last)

    with caplog.at_level(logging.WARNING):
        assert resumes.trained(name, folder, resume=True) == whole[1][name]
    (line,) = [record.getMessage() for record in caplog.records if "round-" in record.getMessage()]
    assert last.name in line and line.endswith(f"; going on from {second.name}") and "\n" not in line
    assert [path.name for path in saved(folder)] == [first.name, second.name, last.name]
    assert checkpoint.load(last)[0] == int(last.name[6:]), "written anew"
    assert (last.parent / f"damaged-{last.name}").is_dir()


def test_two_damaged_ones_are_passed_over(whole, tmp_path):
    folder = shutil.copytree(whole[0] / "student", tmp_path / "run")
    cut(saved(folder)[2])
    without_a_file(saved(folder)[1])
    trainer = resumes.student(folder)
    assert trainer.checkpoints.newest()[0] == 2
    assert [path.name for path in saved(folder)] == ["round-00000002"]


@pytest.mark.parametrize("name", list(resumes.MAKERS))
def test_where_none_is_whole_the_run_ends_and_nothing_changes(whole, tmp_path, name):
    folder = shutil.copytree(whole[0] / name, tmp_path / name)
    before = [path.name for path in saved(folder)]
    for path in saved(folder):
        cut(path)
    with pytest.raises(
        InputError, match=r"no checkpoint in \w+/checkpoints is whole .*; remove that"
    ) as caught:
        resumes.trained(name, folder, resume=True)
    assert "\n" not in str(caught.value) and before[-1] in str(caught.value)
    assert [path.name for path in saved(folder)] == before
    shutil.rmtree(folder / "checkpoints")
    assert resumes.trained(name, folder, resume=True) == whole[1][name], "as the message says"


def test_another_version_is_not_passed_over(whole, tmp_path):
    folder = shutil.copytree(whole[0] / "student", tmp_path / "run")
    file = saved(folder)[2] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    with pytest.raises(InputError, match="has format 9, and this version reads 2"):
        resumes.trained("student", folder, resume=True)


def test_older_checkpoints_have_no_hashes(whole, tmp_path):
    folder = shutil.copytree(whole[0] / "student", tmp_path / "run")
    file = saved(folder)[2] / "state.json"
    content = json.loads(file.read_text())
    assert set(content.pop("sha256")) == {"state", "tensors"}
    file.write_text(json.dumps(content))
    assert checkpoint.load(file.parent)[0] == 6


def test_two_processes_take_the_same_one(whole, tmp_path):
    for name in resumes.MAKERS:
        shutil.copytree(whole[0] / name, tmp_path / name)
        cut(saved(tmp_path / name)[2])
    two_processes(str(SUPPORT / "resumes.py"), str(tmp_path))
    facts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1] and facts[0]["world"] == 2
    assert all(len(facts[0][name]) == 64 for name in resumes.MAKERS), facts[0]
    for name in resumes.MAKERS:
        assert [path.name for path in saved(tmp_path / name)] == [p.name for p in saved(whole[0] / name)]
        for path in saved(tmp_path / name):
            cut(path)
    two_processes(str(SUPPORT / "resumes.py"), str(tmp_path))
    facts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1]
    assert all("is whole" in facts[0][name] for name in resumes.MAKERS)
