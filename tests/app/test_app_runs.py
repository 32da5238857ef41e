"""The line of runs without a page: its end, the limits of a run, and whose results make room."""

import os
import signal
import subprocess
import sys

import pytest
import quick_python
from abd_hub_app import run_child, run_queue
from abd_hub_app.run_job import CONFIG, Job, State
from abd_hub_app.run_queue import RunQueue
from distil_server import wait

from abd_hub import InputError


def put(queue, session, limit=60.0, text="teacher: {id: none}"):
    folder = queue.folder()
    (folder / CONFIG).write_text(text)
    return queue.submit(session, folder, limit)


def ended(queue, job):
    wait(lambda: queue.look(job).state in (State.FAILED, State.CANCELLED, State.DONE))
    return queue.look(job)


def test_the_line_has_an_end_and_one_place_a_visitor(tmp_path):
    with RunQueue(tmp_path) as queue:
        jobs = [put(queue, str(index)) for index in range(run_queue.MOST_WAITING + 1)]
        with pytest.raises(InputError, match="4 runs are in line already"):
            put(queue, "late")
        with pytest.raises(InputError, match="a run of yours is under way"):
            queue.check("2")
        assert [queue.look(job).before for job in jobs[1:]] == [1, 2, 3]
        assert queue.cancel("2") and queue.look(jobs[3]).before == 2
        wait(lambda: jobs[0].process is not None)
        process = jobs[0].process
    assert process.exit_code is not None and list(tmp_path.glob("run-*/home")) == []


def test_a_result_makes_room_for_results_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_queue, "_MOST_KEPT", 1)
    with RunQueue(tmp_path) as queue:
        for session in "ab":
            done = Job(session, queue.folder(), 60)
            done.end(State.DONE, "")
            queue._jobs.append(done)
        for session in "cd":
            job = put(queue, session)
            queue.discard(job.folder)  # so that it cannot start
            assert ended(queue, job).state is State.FAILED
        wait(lambda: len(queue._jobs) == 1)
        assert queue.result("a") is None and queue.result("b") is done and done.folder.is_dir()


def test_too_much_time_ends_a_run(tmp_path):
    with RunQueue(tmp_path) as queue:
        job = put(queue, "a", limit=0.3)
        assert ended(queue, job).reason.startswith("minutes: the first rounds were not done within 0.005")
        assert job.process.exit_code == -signal.SIGTERM and not job.folder.exists()


def test_too_much_memory_ends_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_queue, "MOST_MEMORY", 50_000_000)
    with RunQueue(tmp_path) as queue:
        job = put(queue, "a")
        assert ended(queue, job).reason.startswith("memory: the run took more than 0.05 GB")
        assert job.process.exit_code == -signal.SIGKILL and not job.folder.exists()


def test_what_nobody_looks_at_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(run_queue, "_UNSEEN", 0.5)
    with RunQueue(tmp_path) as queue:
        job = put(queue, "a")
        wait(lambda: job.over)
        assert job.state is State.CANCELLED
        wait(lambda: not job.folder.exists())


def test_the_servers_death_is_the_runs(tmp_path):
    (tmp_path / CONFIG).write_text("teacher: {id: none}")
    process = subprocess.Popen(
        [quick_python.executable(), "-P", run_child.__file__, "distill", str(tmp_path / CONFIG), "600"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.stdin.close()  # as when whoever holds the other end is killed
    assert process.wait(timeout=300) == -signal.SIGTERM
