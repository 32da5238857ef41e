"""A run and its supervisor, as real processes: who ends whom, when, and with which exit code."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from abd_hub.core.processes import RunProcess, thread_settings

RUN = """
import os, signal, sys, time
from pathlib import Path
from abd_hub.core.processes import follow_supervisor

folder, kind, grace, limit = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]) or None
how = signal.SIGTERM if kind == "careful" else signal.SIGINT
follow_supervisor(grace=grace, how=how, limit=limit)
if kind == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "careful":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
if kind == "parent":
    import subprocess
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "other").write_text(str(other.pid))
held = bytearray(200_000_000) if kind == "large" else b""
(folder / "ready").write_text(str(os.getpid()))
try:
    time.sleep(60)
except KeyboardInterrupt:
    (folder / "checkpoint").touch()
    sys.exit(130)
"""
SUPERVISOR = """
import subprocess, sys, time
from abd_hub.core.processes import RunProcess

run = RunProcess([sys.executable, *sys.argv[1:]], output=subprocess.DEVNULL)
print("started", flush=True)
time.sleep(60)
"""


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def lives(process):
    """Whether it is there and at work: what nobody has waited for counts as gone."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def arguments(folder, kind="plain", grace=20.0, limit=0.0):
    (folder / "run.py").write_text(RUN)
    return [str(folder / "run.py"), str(folder), kind, str(grace), str(limit)]


@pytest.fixture
def start(tmp_path):
    """Starts a run of a kind and waits until it is at work."""
    begun = []

    def started(*given, **more):
        run = RunProcess([sys.executable, *arguments(tmp_path, *given, **more)], output=subprocess.DEVNULL)
        begun.append(run)
        wait_for(lambda: number(tmp_path / "ready"))
        return run

    yield started
    for run in begun:
        run.kill()


def number(file):
    text = file.read_text() if file.exists() else ""
    return int(text) if text else None


@pytest.mark.parametrize(("kind", "saved"), [("plain", True), ("deaf", False)])
def test_a_killed_supervisor_takes_its_run_along(tmp_path, kind, saved):
    command = [
        sys.executable,
        "-c",
        SUPERVISOR,
        *arguments(tmp_path, kind, grace=0.5 if kind == "deaf" else 20),
    ]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE)
    wait_for(lambda: number(tmp_path / "ready"))
    run = number(tmp_path / "ready")
    assert lives(run)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not lives(run), 15)
    assert (tmp_path / "checkpoint").exists() is saved


def test_a_run_that_is_asked_ends_with_its_own_exit_code(start, tmp_path):
    run = start()
    assert run.exit_code is None and not run.asked
    assert run.stop(20, signal.SIGINT) == 130 == run.exit_code
    assert run.asked and (tmp_path / "checkpoint").exists()


def test_the_other_signal_and_a_second_request(start):
    run = start("careful")
    run.ask()
    run.ask(signal.SIGKILL)
    assert run.wait(20) == 7


def test_a_run_that_does_not_end_in_its_grace_is_killed(start):
    run = start("deaf")
    assert not run.overdue(0)
    began = time.monotonic()
    assert run.stop(0.5) == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < 15 and run.overdue(0.5) and not run.overdue(60)


@pytest.mark.parametrize(("kind", "code"), [("plain", 130), ("careful", 7), ("deaf", -signal.SIGKILL)])
def test_a_run_ends_at_its_own_limit(start, kind, code):
    assert start(kind, grace=0.5 if kind == "deaf" else 20, limit=1).wait(20) == code


def test_a_run_hears_ctrl_c_though_its_supervisor_blocks_it(start):
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        run = start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert run.stop(20, signal.SIGINT) == 130


def test_a_kill_takes_what_the_run_has_started(start, tmp_path):
    run = start("parent")
    other = number(tmp_path / "other")
    assert lives(other)
    with run:
        pass
    assert run.exit_code == -signal.SIGKILL
    wait_for(lambda: not lives(other), 10)


def test_memory_is_that_of_the_process_now(start):
    run = start("large")
    assert 200_000_000 <= run.memory() < 1_000_000_000
    run.kill()
    assert run.memory() == 0


def test_output_environment_and_folder_are_handed_on(tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ['OMP_NUM_THREADS']); print('why', file=sys.stderr)"
    environment = os.environ | thread_settings(3)
    with (tmp_path / "log").open("wb") as log:
        run = RunProcess([sys.executable, "-c", code], output=log, environment=environment, folder=tmp_path)
    assert run.wait(30) == 0
    assert sorted((tmp_path / "log").read_text().split()) == sorted([str(tmp_path.resolve()), "3", "why"])
    assert run.kill() == 0
