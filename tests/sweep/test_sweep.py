"""Sweeps on a real local Ray: no run is lost or done twice."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from folders import snapshot
from missing import NO_RAY, needs_proc, needs_ray
from sweep_files import BASE, names, write
from tiny_teacher import save_teacher

from abd_hub.cli import main
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.core.folder import OutputFolder, in_use
from abd_hub.sweep import task
from abd_hub.sweep.config import read_sweep
from abd_hub.sweep.display import LineDisplay, TableDisplay, progress
from abd_hub.sweep.engine import DONE, _judge, look, run_sweep
from abd_hub.sweep.task import Outcome, attempt

ROOT = Path(__file__).parents[2]


def rows():
    return {row["name"]: row for row in json.loads(Path("out", "summary.json").read_text())["runs"]}


def stamps():
    return {path: path.stat().st_mtime_ns for path in Path("out").glob("runs/*/*")}


@needs_ray
def test_real_runs_a_failure_among_them_and_the_same_command_again(capsys, place, request):
    save_teacher(place / "teacher")
    runs = [{"teacher.id": "local-dir:teacher"}, {"teacher.id": "local-dir:absent"}]
    file = write(runs=runs, grid={"seed": [0]}, resources={"cpus": 1, "gpus": 0})
    good, bad = names(file)
    assert main(["sweep", file, "--json"]) == 1
    *events, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(e["name"], e["state"]) for e in events} == {
        *((good, "running"), (good, "done"), (bad, "running"), (bad, "failed"))
    }
    assert last["counts"] == {"done": 1, "failed": 1}
    assert rows()[bad]["attempts"] == 1, "what refuses its input is not tried again"
    assert "absent" in rows()[bad]["reason"]
    assert "1 of 2 runs are finished" in Path("out/results.md").read_text()
    assert Path("out/results.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("out/.lock").exists() and not list(Path("out").rglob(".abd-tmp-*"))
    swept = json.loads(Path(f"out/results/{good}.json").read_text())
    same_by_hand(good, swept)
    before = stamps()
    save_teacher(place / "absent")
    request.getfixturevalue("ray")  # the first command has started and ended one of its own
    capsys.readouterr()
    assert main(["sweep", file]) == 0
    shown = capsys.readouterr()
    *table, last = shown.out.splitlines()
    assert last == "wrote out/results.md" and table[0].startswith("| teacher.id | attack | seeds |")
    assert len(table) == 2 + 2, "a row a teacher"
    assert shown.err.splitlines() == [
        "1 of 2 runs were finished before",
        f"[1/2] {bad} running",
        f"[2/2] {bad} done",
    ]
    assert {path: stamp for path, stamp in stamps().items() if path in before} == before
    assert [rows()[name]["attempts"] for name in (good, bad)] == [1, 2]


def same_by_hand(name, swept):
    assert main(["distill", "--config", f"out/configs/{name}.yaml", "--output_dir", f"hand/{name}"]) == 0
    by_hand = json.loads(Path(f"hand/{name}/metrics.json").read_text())
    for record in (swept, by_hand):
        del record["durations"], record["speed"]
    assert swept == by_hand
    assert swept["device"] == "cpu (1 threads)"


@pytest.fixture(scope="module")
def ray():
    """One local Ray for the tests whose runs cost nothing."""
    ray = pytest.importorskip("ray", reason=NO_RAY)
    paths = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def cheap(rounds=3, seeds=6, **fields):
    base = BASE | {"zskt": BASE["zskt"] | {"rounds": rounds}}
    return read_sweep(write(config=base, grid={"seed": list(range(seeds))}, **fields))


def run_cheap(plan):
    said = io.StringIO()
    return run_sweep(plan, LineDisplay(said), child="sweep_worker"), said.getvalue()


def processes():
    """(process, parent) of the runs that are at work here."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"sweep_worker" in command and str(Path.cwd()).encode() in b" ".join(command):
                found.append((int(folder.name), int((folder / "stat").read_text().rsplit(")")[1].split()[1])))
        except (OSError, ValueError, IndexError):
            continue
    return found


def wait_for(condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def kill_at_random(kills, done):
    """Kills runs and the Ray workers above them, in turns, and none twice: its attempt counts once."""
    chance, struck = random.Random(0), set()
    while kills and not done.is_set():
        time.sleep(chance.uniform(0.1, 0.5))
        found = [pair for pair in processes() if pair[0] not in struck]
        if found:
            child, worker = chance.choice(found)
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(worker if len(kills) % 2 else child, signal.SIGKILL)
                struck.add(child)
                kills.pop()


@needs_ray
@needs_proc
def test_runs_and_workers_killed_at_random_lose_nothing_and_repeat_nothing(ray, place, capsys):
    plan = cheap(rounds=4, seeds=24, retries=20, resources={"cpus": 0.5, "gpus": 0})
    kills, done = list(range(10)), threading.Event()
    killer = threading.Thread(target=kill_at_random, args=(kills, done))
    killer.start()
    try:
        statuses, _ = run_cheap(plan)
    finally:
        done.set()
        killer.join()
    assert not kills, "all were killed"
    assert capsys.readouterr().out == "", "Ray's own words would stand among JSON"
    assert [status.state for status in statuses] == [DONE] * 24
    assert sum(status.attempts for status in statuses) >= 24 + 5
    for seed, status in enumerate(statuses):
        record = json.loads(Path(f"out/results/{status.name}.json").read_text())
        assert (record["seed"], record["rounds"]) == (seed, 4)
        assert record["results"]["student"]["accuracy"]["count"] == seed * (0 + 1 + 2 + 3)
        log = [json.loads(line) for line in (status.folder / "log.jsonl").read_text().splitlines()]
        assert sorted({row["round"] for row in log}) == [1, 2, 3, 4]
        assert {row["threads"] for row in log} == {"1"}
    before, attempts = stamps(), [status.attempts for status in statuses]
    again, said = run_cheap(plan)
    assert [status.attempts for status in again] == attempts and "running" not in said
    assert stamps() == before
    assert processes() == []


@needs_ray
def test_more_seeds_later_run_only_what_is_new(ray, place):
    run_cheap(cheap(rounds=1, seeds=1))
    before = stamps()
    statuses, said = run_cheap(cheap(rounds=1, seeds=3))
    assert [(status.state, status.tries) for status in statuses] == [(DONE, 0), (DONE, 1), (DONE, 1)]
    assert said.startswith("1 of 3 runs were finished before\n")
    assert {path: stamp for path, stamp in stamps().items() if path in before} == before
    table = Path("out/results.md").read_text()
    assert "| 0, 1, 2 |" in table and "| **0.000** (0.000, 0.000, 0.000) |" not in table


@needs_ray
def test_a_stop_ends_the_runs_with_a_checkpoint_and_the_same_command_goes_on(ray, place):
    rounds = 100  # so many that the first does not end before a busy machine has begun the second
    plan = cheap(rounds=rounds, seeds=4)

    def interrupt():
        wait_for(lambda: len(list(Path("out").glob("runs/*/checkpoint.json"))) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="stopped with 4 of 4 runs unfinished"):
        run_cheap(plan)
    thread.join()
    assert processes() == [] and not Path("out/.stop").exists()
    begun = [status for status in look(plan) if status.folder.exists()]
    assert len(begun) == 2 and not any(in_use(status.folder) for status in begun)
    reached = [json.loads((s.folder / "checkpoint.json").read_text())["round"] for s in begun]
    assert all(0 < count < rounds for count in reached)
    assert progress(begun[0]) == f"{reached[0]} of {rounds} rounds"
    statuses, _ = run_cheap(cheap(rounds=rounds, seeds=2))
    for status in statuses:
        log = [json.loads(line)["round"] for line in (status.folder / "log.jsonl").read_text().splitlines()]
        assert log == list(range(1, rounds + 1)), "no round was done twice"


@needs_ray
def test_a_run_that_always_dies_is_given_up_after_its_retries(ray, place):
    plan = cheap(rounds=1, seeds=2, retries=1)
    # its checkpoint is no JSON: the process of this run ends with an exception each time
    broken = look(plan)[0].folder
    with OutputFolder.open("out", resume=True, config_yaml=plan.to_yaml()):
        pass
    with OutputFolder.open(broken, resume=True, config_yaml=yaml.safe_dump(dict(plan.runs[0].settings))):
        (broken / "checkpoint.json").write_text("{")
    statuses, said = run_cheap(plan)
    assert [(status.state, status.attempts) for status in statuses] == [("failed", 2), (DONE, 1)]
    assert "JSONDecodeError" in statuses[0].reason
    assert statuses[0].log.read_text().count("--- attempt") == 2
    assert f"{statuses[0].name} failed: json.decoder.JSONDecodeError" in said
    assert "failed, json.decoder.JSONDecodeError" in Path("out/results.md").read_text()


@needs_ray
def test_two_sweeps_in_one_folder_at_once_and_more_than_there_is(ray, place):
    with (
        OutputFolder.open("out", resume=True, config_yaml=cheap().to_yaml()),
        pytest.raises(InputError, match="in use by another process"),
    ):
        run_cheap(cheap())
    before = snapshot(place)
    for resources, words in (
        ({"cpus": 3}, "cpus: a run takes 3, and no machine has"),
        ({"gpus": 1}, "gpus: "),
    ):
        with pytest.raises(InputError, match=words):
            run_cheap(cheap(resources=resources))
    assert {k: v for k, v in snapshot(place).items() if k != "sweep.yaml"} == {
        k: v for k, v in before.items() if k != "sweep.yaml"
    }


@needs_ray
@needs_proc
def test_a_sweep_on_a_cluster_that_is_killed_leaves_no_process_and_goes_on(place, ray):
    plan = cheap(rounds=40, seeds=2)
    address = ray.get_runtime_context().gcs_address
    code = (
        "import sys; from abd_hub.sweep.engine import run_sweep; from abd_hub.sweep.config import read_sweep;"
        "from abd_hub.sweep.display import LineDisplay;"
        f"run_sweep(read_sweep('sweep.yaml', address='{address}'), LineDisplay(sys.stderr), "
        "child='sweep_worker')"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: len(list(Path("out").glob("runs/*/checkpoint.json"))) == 2)
    sweep.kill()
    sweep.wait()
    wait_for(lambda: processes() == [])
    statuses, _ = run_cheap(plan)
    assert [status.state for status in statuses] == [DONE] * 2
    for status in statuses:
        log = [json.loads(line)["round"] for line in (status.folder / "log.jsonl").read_text().splitlines()]
        assert sorted(set(log)) == list(range(1, 41)) and len(log) <= 42


def test_a_terminal_shows_the_table_over_itself(place):
    plan = cheap(seeds=3)
    statuses, out = look(plan), io.StringIO()
    display = TableDisplay(out)
    display.update(statuses)
    statuses[2].state, statuses[2].attempts = "running", 1
    statuses[2].folder.mkdir(parents=True)
    (statuses[2].folder / "log.jsonl").write_text('{"round": 2}\n{"rou')
    display.update(statuses)
    first, second = out.getvalue().split("\x1b[6F\x1b[J")
    assert first.splitlines()[-1] == "3 waiting"
    assert second.splitlines()[2].split() == [statuses[2].name, "running", "2", "of", "3", "rounds", "1"]
    assert second.splitlines()[-1] == "1 running, 2 waiting"


def test_a_machine_that_does_not_see_the_folder_says_so(place):
    plan = cheap(seeds=1)
    from abd_hub.sweep.engine import _Engine

    job = _Engine(None, plan, "sweep_worker", 0)._attempt(look(plan)[0])
    found = attempt(job)
    assert isinstance(found, Outcome) and found.code == 2
    assert "use an output_dir that all machines share" in found.reason


def taken_run():
    """A run whose folder another process works in, and its attempt."""
    from abd_hub.sweep.engine import _Engine

    plan = cheap(rounds=1, seeds=1)
    status = look(plan)[0]
    text = yaml.safe_dump(dict(plan.runs[0].settings))
    for file in (status.config_file, status.log):
        file.parent.mkdir(parents=True, exist_ok=True)
    status.config_file.write_text(text)
    before = OutputFolder.open(status.folder, resume=True, config_yaml=text)
    return status, before, _Engine(None, plan, "sweep_worker", 0)._attempt(status)


def test_an_attempt_waits_for_the_process_of_the_one_before_to_leave(place):
    status, before, job = taken_run()
    threading.Timer(2, before.close).start()
    found = attempt(job)
    assert found.code == 0, found
    assert (status.folder / "metrics.json").exists()


def test_a_run_that_another_machine_still_works_on_has_not_failed(place, monkeypatch):
    status, before, job = taken_run()
    monkeypatch.setattr(task, "_WAIT_FOR_FOLDER", 0)
    found = attempt(job)
    assert found.taken and "is in use by another process" in found.reason and not status.log.exists()
    with monkeypatch.context() as patch:
        patch.setattr(task, "_wait_until_free", lambda *_: True)
        refused = attempt(job)  # the other process came between the wait and the start of the run
    assert refused.taken and refused.code == 2
    for outcome in (found, refused):
        _judge(status, outcome, 0, False)
    assert (status.state, status.tries) == ("waiting", 0), "it counts as no retry"
    Path(job.stop).touch()
    assert attempt(job).reason == task.STOPPED, "a stop ends the wait"
    before.close()
