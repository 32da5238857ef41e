"""A sweep notices that the head of its cluster is lost, and waits for the next one."""

import io
import socket

import pytest
from sweep_files import write

from abd_hub.sweep import cluster
from abd_hub.sweep.cluster import Cluster
from abd_hub.sweep.config import read_sweep
from abd_hub.sweep.display import LineDisplay
from abd_hub.sweep.engine import DONE, RUNNING, WAITING, _after_loss, _Engine, look
from abd_hub.sweep.task import STOPPED


class Exceptions:
    RayError = type("RayError", (Exception,), {})


class Ray:
    """Stands for Ray, which cannot lose its head within a test; refuses the first connections."""

    exceptions = Exceptions

    def __init__(self, head, refusals):
        self.gcs_address = f"127.0.0.1:{head.getsockname()[1]}"
        self.refusals = refusals
        self.sent = []

    def init(self, **_):
        self.refusals -= 1
        if self.refusals >= 0:
            # Without a token, Ray raises an error of its own.
            raise self.exceptions.RayError("no token") if self.refusals else ConnectionError("no node here")

    def get_runtime_context(self):
        return self

    def shutdown(self):
        self.sent.clear()

    def remote(self, *arguments):
        self.sent += [job.folder for job in arguments if job.__class__.__name__ == "Attempt"]
        return self if callable(arguments[0]) else len(self.sent)

    def options(self, **_):
        return self


@pytest.fixture
def head():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_head_that_has_ended_is_lost_and_a_silent_one_after_a_while(head, monkeypatch):
    ours = Cluster(Ray(head, 0), "auto")
    assert not ours.lost(), "nothing to watch yet"
    ours.connect()
    assert not ours.lost()
    head.close()
    assert ours.lost()
    monkeypatch.setattr(cluster, "_answers", lambda _: None)
    assert not ours.lost()
    monkeypatch.setattr(cluster, "_LONGEST_SILENCE", 0)
    assert ours.lost()


@pytest.mark.parametrize("stopped", [False, True])
def test_after_a_loss_the_new_head_gets_what_is_left(head, monkeypatch, place, stopped):
    monkeypatch.setattr(cluster, "_LOOK_EVERY", 0.01)
    plan = read_sweep(write(grid={"seed": [0, 1, 2]}))
    statuses = look(plan)
    (place / "out" / "logs").mkdir(parents=True)
    for status, state in zip(statuses, (DONE, RUNNING, WAITING), strict=True):
        status.state, status.tries = state, int(state != WAITING)
    ray = Ray(head, 0)
    ours = Cluster(ray, "auto")
    ours.connect()
    ray.refusals, said = 2, io.StringIO()
    pending = _after_loss(_Engine(ray, plan, "child", 0, ours), statuses, LineDisplay(said), [2] * stopped)
    assert [status.tries for status in statuses] == [1, 0, 0], "a loss is no retry"
    assert said.getvalue().startswith("the head of the Ray cluster is lost: ")
    left = STOPPED if stopped else WAITING
    assert [status.state for status in statuses] == [DONE, left, left]
    assert list(pending.values()) == ([] if stopped else statuses[1:])
    assert ray.sent == ([] if stopped else [str(status.folder.resolve()) for status in statuses[1:]])
