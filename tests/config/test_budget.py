"""A time becomes a number of rounds, and the settings that count rounds follow from it."""

import dataclasses

import pytest

from abd_hub import DistillConfig, ModelOptions, SelfRetrospection, ShufflingVaccine, TrainerOptions
from abd_hub.config.budget import Costs, fitted, frugal, is_short, late_rounds, with_rounds
from abd_hub.config.durations import format_duration, parse_duration
from abd_hub.config.parsing import parse_distill
from abd_hub.core import registry
from abd_hub.core.errors import InputError

COSTS = Costs(update=0.5, step=0.1, late_step=2.0)


def config(method="zskt", defenses=(), **settings):
    synthesizer = registry.get("synthesizers", method)(**settings)
    return DistillConfig(
        output_dir="x", teacher=ModelOptions(id="y"), synthesizer=synthesizer, defenses=list(defenses)
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5m", 90),
        ("1h0m5s", 3605),
        (" 3m ", 180),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text, "budget") == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "20 m", "30m1h", "-5m", "0s", "9999999h", "20min", "1e3s"])
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="budget: must be"):
        parse_duration(text, "budget")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (5400, "1 h 30 min")]
)
def test_a_duration_is_written(seconds, text):
    assert format_duration(seconds) == text


def test_the_command_line_and_python_take_a_budget():
    found = parse_distill(["--teacher.id", "x", "--output_dir", "y", "--budget", "20m"])
    assert (found.budget, found.planned_rounds) == ("20m", [])
    with pytest.raises(InputError, match="budget: must be a time such as"):
        dataclasses.replace(config(), budget="20")


@pytest.mark.parametrize(
    ("pairs", "fault"),
    [
        ([[0, 9], [3]], "must be pairs"),
        ([[1, 80_000]], "must be pairs"),
        ([[0, 9], [5, 10], [2, 80_000]], "must be pairs"),
        ([[0, 9], [5, 10]], "end with 10 rounds, but the method has 80000"),
    ],
)
def test_plans_that_no_run_has_written_are_refused(pairs, fault):
    with pytest.raises(InputError, match=rf"planned_rounds: {fault}"):
        dataclasses.replace(config(), planned_rounds=pairs)


def test_a_plan_and_a_budget_are_refused_together():
    with pytest.raises(InputError, match="planned_rounds: follow from the budget"):
        dataclasses.replace(config(), planned_rounds=[[0, 80_000]], budget="20m")


@pytest.mark.parametrize("method", [entry.name for entry in registry.catalog("synthesizers")])
@pytest.mark.parametrize("rounds", [2, 3, 10, 77, 5000])
def test_every_number_of_rounds_is_accepted_by_all_that_count_rounds(method, rounds):
    defenses = [registry.get("defenses", entry.name)() for entry in registry.catalog("defenses")]
    for start in (config(method, defenses), frugal(config(method, defenses))):
        found = with_rounds(start, rounds)
        assert found.synthesizer.rounds == rounds
        assert found.synthesizer.steps_in(rounds - 1) > 0, "the student learns"
        for defense in found.defenses:
            defense_at_work_check(defense, rounds)
        assert found.trainer.log_every <= rounds and found.trainer.checkpoint_every <= rounds


def defense_at_work_check(defense, rounds):
    if isinstance(defense, SelfRetrospection):
        assert 1 <= defense.last_rounds < rounds
    if isinstance(defense, ShufflingVaccine):
        assert defense.check_batches <= max(2, rounds // 4)


def test_fast_keeps_the_share_of_its_warmup():
    assert with_rounds(config("fast"), 22).synthesizer.warmup_rounds == 2
    assert with_rounds(config("fast"), 22).synthesizer.reset_first_layer_round == 14
    assert with_rounds(config("fast", rounds=100, warmup_rounds=50), 4).synthesizer.warmup_rounds == 2


def test_intervals_that_were_set_stay():
    own = dataclasses.replace(config(), trainer=TrainerOptions(log_every=7, checkpoint_every=0))
    assert with_rounds(own, 1000).trainer == own.trainer
    found = with_rounds(config(), 1000).trainer
    assert (found.log_every, found.checkpoint_every) == (10, 100)


def test_frugal_settings_leave_what_was_set():
    found = frugal(config("fast", student_steps=7)).synthesizer
    assert (found.student_steps, found.batch_size) == (7, 128)


def test_the_costs_of_a_run_are_those_of_its_rounds():
    start = config("fast", [SelfRetrospection(last_rounds=5)], rounds=100, warmup_rounds=10, student_steps=4)
    assert late_rounds(start) == 5
    rounds = [COSTS.round(0)] * 10 + [COSTS.round(4)] * 85 + [COSTS.round(4, late=True)] * 5
    assert COSTS.run(start) == pytest.approx(sum(rounds))


@pytest.mark.parametrize("seconds", [0, 3, 60, 1200, 90_000])
@pytest.mark.parametrize("method", ["zskt", "fast"])
def test_as_many_rounds_as_possible_fit(method, seconds):
    start = config(method, [SelfRetrospection()], student_steps=4)
    found = fitted(start, COSTS, seconds)
    rounds = found.synthesizer.rounds
    assert COSTS.run(found) <= seconds or rounds == 2
    assert COSTS.run(with_rounds(start, rounds + 1)) > seconds


def test_settings_are_frugal_where_little_fits():
    start = config(student_steps=4)
    whole = COSTS.run(start)
    assert is_short(start, COSTS, 0.2 * whole) and not is_short(start, COSTS, 0.3 * whole)
