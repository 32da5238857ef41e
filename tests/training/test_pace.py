"""A run with a time limit changes its number of rounds, keeps to the time, and can be repeated to the bit."""

import dataclasses

import pytest
import torch
from plugin_rows import make

from abd_hub.training.pace import Pace, TimeLimit, rounds_that_fit


@dataclasses.dataclass
class Clock(TimeLimit):
    """A limit whose time is set by hand."""

    now: float = 0.0

    def spent(self):
        return self.earlier + self.now


def followed(limit, first, seconds, late_seconds=None):
    """The pace of a run, and the time at which its last round ends."""
    pace = Pace(first, (), limit)
    done = 0
    while done < (total := pace.total(done)):
        late = done >= total - limit.late_rounds
        limit.now += late_seconds if late and late_seconds else seconds(done)
        done += 1
    return pace, done


@pytest.mark.parametrize("estimate", [0.5, 1.0, 2.0])
def test_a_wrong_estimate_is_corrected(estimate):
    limit = Clock(budget=1000.0, kept=50.0, round_seconds=estimate)
    _, done = followed(limit, round(950 / estimate), lambda done: 1.0)
    assert limit.now == done
    assert limit.now + 50 / estimate == pytest.approx(1000, rel=0.03)


def test_the_time_in_which_a_method_makes_its_images_is_left_out():
    """The estimate of the kept time would else be corrected in the second round, to next to nothing."""
    limit = Clock(budget=420.0, kept=65.0, round_seconds=2.4, earlier=270.0, now=46.0)
    pace, done = followed(limit, 34, lambda done: 2.4)
    assert pace.totals[0] == (0, 34 - 19) and 15 <= done <= 17
    assert limit.spent() + limit.kept == pytest.approx(420, rel=0.03)
    fewest = Pace(34, (), Clock(budget=420.0, kept=65.0, round_seconds=2.4, now=500.0, idle_rounds=3))
    assert fewest.total(0) == 5


def test_a_machine_that_becomes_busy_is_followed():
    limit = Clock(budget=1000.0, kept=20.0, round_seconds=1.0)
    pace, done = followed(limit, 980, lambda done: 1.0 if done < 400 else 2.5)
    assert limit.now == pytest.approx(1000 - 20 * 2.5, rel=0.03)
    assert done < 700 and pace.totals[0] == (0, 980) and pace.totals[-1][1] == done


def test_time_for_the_late_rounds_is_kept():
    limit = Clock(budget=1000.0, kept=0.0, round_seconds=1.0, late_seconds=20.0, late_rounds=10)
    _, done = followed(limit, 810, lambda done: 1.3, late_seconds=26.0)
    assert limit.now == pytest.approx(1000, rel=0.03)
    assert done == pytest.approx((1000 - 260) / 1.3 + 10, rel=0.05)


def test_late_rounds_become_fewer_but_never_more():
    limit = TimeLimit(budget=100.0, kept=0.0, round_seconds=1.0, late_seconds=5.0, late_rounds=10)
    assert rounds_that_fit(limit, 95, 100, 90.0, 5.0) == 97
    assert rounds_that_fit(limit, 95, 100, 0.0, 5.0) == 100
    assert rounds_that_fit(limit, 95, 100, 500.0, 5.0) == 96


def test_the_time_before_a_resumption_counts():
    limit = Clock(budget=1000.0, kept=0.0, round_seconds=1.0, now=400.0)
    first = Pace(900, (), limit)
    first.totals.append((300, 990))
    again = Pace(900, (), Clock(budget=1000.0, kept=0.0, round_seconds=1.0, now=30.0))
    again.load_state_dict(first.state_dict())
    assert again.totals == [(0, 900), (300, 990)] and again.limit.spent() == 430
    assert again.total(299) == 900 and Pace(5).state_dict() == {}


def live(method, defenses):
    """A trainer whose clock runs by rounds, slower from the sixth round on."""
    trainer = make(method, defenses)
    trainer.adopt(dataclasses.replace(trainer.method, rounds=12))
    trainer.pace = Pace(12, (), Clock(budget=12.0, kept=0.0, round_seconds=1.0))
    original = trainer._round

    def clocked(index):
        original(index)
        trainer.pace.limit.now += 1.0 if index < 5 else 2.5

    trainer._round = clocked
    return trainer


@pytest.mark.parametrize("defenses", [[], ["self_retrospection"]], ids=["plain", "retrospection"])
@pytest.mark.parametrize("method", ["zskt", "fast", "ood"])
def test_the_plan_repeats_the_run_to_the_bit(method, defenses):
    first = live(method, defenses)
    first.fit()
    assert len(first.pace.totals) > 1 and 5 < first.round == first.method.rounds < 12

    second = make(method, defenses)
    second.adopt(first.method)
    second.pace = Pace(first.method.rounds, first.pace.totals)
    second.fit()
    unplanned = make(method, defenses)
    unplanned.adopt(first.method)
    unplanned.pace = Pace(first.method.rounds)
    unplanned.fit()
    assert same(first, second), "the same schedules"
    assert not same(first, unplanned), "the plan matters"


def same(one, other):
    pairs = zip(one.student.state_dict().values(), other.student.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_stopped_run_goes_on_with_its_pairs():
    whole = live("zskt", [])
    whole.fit()
    first = live("zskt", [])
    first.student.train()
    first._keep_pace(NoBar())
    for _ in range(6):
        first._round(first.round)
        first.round += 1
        first._keep_pace(NoBar())
    second = live("zskt", [])
    second.round = first.round
    second.load_state_dict(first.state_dict())
    assert second.pace.limit.spent() == 7.5
    second.fit()
    assert second.pace.totals[: len(first.pace.totals)] == first.pace.totals
    assert second.round == whole.round


class NoBar:
    total = 0

    def refresh(self):
        """Shows nothing."""
