"""The time left counts cheap and expensive rounds apart, and what follows the last."""

import pytest

from abd_hub.training import remaining as module
from abd_hub.training.remaining import Forecast, Remaining


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def followed(clock, run, total, cost, after):
    """The pairs (estimate, true time left) after each round of a run whose rounds cost ``cost(index)``."""
    begins = clock.now
    pairs = []
    run.begin()
    for index in range(total):
        clock.now += cost(index)
        run.after_round(index + 1, total)
        pairs.append((run.left(), clock.now - begins))
    end = clock.now - begins + after
    return [(left, end - then) for left, then in pairs]


def test_warm_up_and_last_rounds_are_foreseen(monkeypatch):
    clock = Clock(monkeypatch)
    # The machine has become 1.5 times as slow since the rounds were timed.
    forecast = Forecast({"idle": 1.0, "ordinary": 4.0, "late": 80.0}, after=60.0)

    def cost(index):
        return 1.5 * (1.0 if index < 20 else 4.0 if index < 95 else 80.0)

    run = Remaining(20, 5, lambda: forecast)
    pairs = followed(clock, run, 100, cost, after=60.0)
    assert pairs[5][0] is None, "there is no forecast yet"
    for left, true in pairs[8:]:
        assert left == pytest.approx(true, rel=0.05)


def test_a_step_of_minutes_runs_down_and_what_follows_stays(monkeypatch):
    clock = Clock(monkeypatch)
    run = Remaining(0, 1, lambda: Forecast({"ordinary": 10.0, "late": 300.0}, after=50.0))
    followed(clock, run, 3, lambda index: 10.0, after=0.0)
    run = Remaining(0, 1, lambda: Forecast({"ordinary": 10.0, "late": 300.0}, after=50.0))
    run.begin()
    for done in (1, 2):
        clock.now += 10.0
        run.after_round(done, 3)
    assert run.left() == 350
    clock.now += 120
    assert run.left() == 230
    clock.now += 1000
    assert run.left() == 50, "a round that takes too long takes nothing from what follows it"


def test_without_a_forecast_unknown_rounds_give_no_number(monkeypatch):
    clock = Clock(monkeypatch)
    pairs = followed(clock, Remaining(3, 2), 10, lambda index: 1.0, after=0.0)
    assert all(left is None for left, _ in pairs[:8])
    assert pairs[8][0] == pytest.approx(1.0), "the last rounds have begun"
    assert followed(clock, Remaining(), 10, lambda index: 2.0, after=0.0)[4] == (10.0, 10.0)


def test_a_first_round_that_prepares_the_others_does_not_count_long(monkeypatch):
    clock = Clock(monkeypatch)
    pairs = followed(clock, Remaining(), 50, lambda index: 60.0 if index == 0 else 1.0, after=0.0)
    assert pairs[1][0] == pytest.approx(48.0)


def test_a_machine_that_becomes_busy_is_followed(monkeypatch):
    clock = Clock(monkeypatch)
    pairs = followed(clock, Remaining(), 1000, lambda index: 1.0 if index < 300 else 3.0, after=0.0)
    left, true = pairs[420]
    assert left == pytest.approx(true, rel=0.2)


def test_rounds_that_are_left_out_in_the_end_are_counted(monkeypatch):
    """A run with a budget changes its number of rounds on the way."""
    clock = Clock(monkeypatch)
    run = Remaining(0, 2, lambda: Forecast({"ordinary": 10.0, "late": 40.0}))
    run.begin()
    for done in range(1, 11):
        clock.now += 10.0
        run.after_round(done, 100 if done < 10 else 12)
    assert run.left() == 80
