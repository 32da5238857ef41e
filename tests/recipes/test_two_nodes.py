"""A Ray of two nodes is broken by a plan that follows from the seed, and the judge finds each damage."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sweep_worker
from missing import needs_proc
from sweep_files import write

from abd_hub.core import files
from abd_hub.sweep.config import read_sweep
from abd_hub.sweep.engine import _prepare, _save, look
from abd_hub.sweep.table import write_tables

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import ray_nodes
import sweep_check
import two_nodes


def test_the_plan_follows_from_the_seed_and_has_every_kind():
    plan = two_nodes.faults(200, 0)
    assert plan == two_nodes.faults(200, 0) != two_nodes.faults(200, 1)
    assert [fault.after for fault in plan] == sorted(fault.after for fault in plan)
    assert plan[-1].after < 180, "the last ones would come after the end"
    assert {fault.kind for fault in two_nodes.faults(12, 0)} == set(two_nodes.COUNTS)
    assert "cable" not in {fault.kind for fault in two_nodes.faults(12, 0, cable=False)}
    assert all(hasattr(two_nodes.Campaign, f"strike_{kind}") for kind in two_nodes.COUNTS)


def test_the_sweep_has_so_many_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_nodes.write_sweep(tmp_path, 5)
    found = read_sweep("sweep.yaml").runs
    assert [(run.config.seed, len(run.config.defenses)) for run in found] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 1),
    ]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The folder of a sweep of two runs, and its rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_worker, "A_ROUND", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan = read_sweep(write(output_dir="sweep", grid={"seed": [0, 1]}))
    statuses = look(plan)
    Path("sweep").mkdir()
    _prepare(plan, statuses)
    for status in statuses:
        status.folder.mkdir()
        sweep_worker.rounds(status.folder, dict(status.run.settings))
        status.log.touch()
    statuses = look(plan)
    _save(plan, statuses)
    write_tables(Path("sweep"), plan, [(s.name, s.run, s.state, s.reason) for s in statuses])
    return Path("sweep"), json.loads(Path("sweep/summary.json").read_text())["runs"]


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


DAMAGES = {
    "is missing": shutil.rmtree,
    "is one too many": lambda run: shutil.copytree(run, run.with_name(f"twice-{run.name}")),
    "is not whole": lambda run: (run / "metrics.json").write_text('{"seed": 1'),
    "has seed 7": lambda run: replace(run / "metrics.json", '"seed": 1', '"seed": 7'),
    "results has another record": lambda run: replace(run / "metrics.json", '"zskt"', '"dafl"'),
    "its log has the rounds [1]": lambda run: replace(
        run / "log.jsonl", '{"round": 2, "threads": "1"}\n', ""
    ),
    "is left over": lambda run: (run / f".abd-tmp-{'0' * 16}-x").touch(),
    "is in the folder": lambda run: (run.parents[1] / "mine").touch(),
    "does not name each run once": lambda run: replace(
        run.parents[1] / "summary.json", '"done"', '"running"'
    ),
    "does not count all runs": lambda run: replace(run.parents[1] / "results.md", "2 of 2", "1 of 2"),
    "does not list each seed": lambda run: replace(run.parents[1] / "results.md", "| 0, 1 |", "| 0, 0 |"),
}


def test_the_judge_finds_each_damage_and_nothing_else(finished):
    sweep, rows = finished
    assert sweep_check.wrong(sweep, rows) == []
    for words, damage in DAMAGES.items():
        shutil.copytree(sweep, "whole")
        damage(sweep / "runs" / rows[1]["name"])
        found = sweep_check.wrong(sweep, rows)
        assert any(words in line for line in found), (words, found)
        shutil.rmtree(sweep)
        Path("whole").rename(sweep)


def test_a_run_done_alone_may_differ_in_times_and_in_its_folder_only(finished):
    sweep, rows = finished
    run, other = (sweep / "runs" / row["name"] for row in rows)
    for folder in (run, other):
        files.write_text(folder / "config.yaml", f"seed: 0\noutput_dir: {folder}\n")
        replace(folder / "metrics.json", '"durations": {}', f'"durations": {{"x": {len(folder.name)}}}')
    shutil.copytree(run, "alone")
    replace(Path("alone/config.yaml"), str(run), "elsewhere")
    assert sweep_check.differences(run, Path("alone")) == []
    assert "metrics.json is another" in sweep_check.differences(run, other)


@needs_proc
def test_a_node_is_killed_with_what_it_has_started(tmp_path):
    with (
        ray_nodes.Network(tmp_path, isolated=False) as network,
        ray_nodes.Cluster(network, tmp_path, 1) as ray,
    ):
        place = tmp_path / "nodes" / "worker"
        place.mkdir(parents=True)
        node = subprocess.Popen(["sh", "-c", "cd /; sleep 99 & cd -; sleep 99; true"], cwd=place)
        assert ray_nodes.until(lambda: len(ray.processes("worker")) == 3, 10)
        assert not ray.processes("head") and not ray.alive("worker")
        ray.kill("worker")
        assert node.wait(10) == -9 and ray.processes("worker") == []
    assert network.cluster_address.startswith("127.0.0.1:")
