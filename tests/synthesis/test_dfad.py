"""DFAD against the loop of its algorithm 1, in float64."""

import nets
import pytest
import runs
import torch

from abd_hub import Dfad, InputError, Trainer
from abd_hub.core import seeding


def rate(start, index, rounds):
    """A tenth from epoch 100 of 500 on, a hundredth from epoch 200 on."""
    epoch = 500 * index / rounds
    return start if epoch < 100 else start / 10 if epoch < 200 else start / 100


def paper_loop(teacher, student, generator, method, penalty=None, seed=0):
    """Five student steps on fresh images, then one generator step; the last one, unseen, is left out."""
    g_adam = torch.optim.Adam(generator.parameters(), lr=1e-3)
    s_sgd = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def draw(*purpose):
        chance = seeding.generator(seed, "dfad", *purpose)
        return torch.randn(method.batch_size, method.z_dim, generator=chance).double()

    for index in range(method.rounds):
        g_adam.param_groups[0]["lr"] = rate(1e-3, index, method.rounds)
        s_sgd.param_groups[0]["lr"] = rate(0.1, index, method.rounds)
        for step in range(5):
            x = (generator(draw("student z", index, step)) * teacher.std + teacher.mean).detach()
            s_sgd.zero_grad()
            (teacher(x) - student(x)).abs().mean().backward()
            s_sgd.step()
        if index == method.rounds - 1:
            break
        x = generator(draw("z", index + 1)) * teacher.std + teacher.mean
        t = teacher(x)
        loss = -(t - student(x)).abs().mean()
        if penalty is not None:
            loss = loss + penalty(x, t)
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()


@pytest.mark.parametrize("vaccinated", [False, True])
def test_student_and_generator_are_those_of_the_papers_loop(vaccinated):
    """Five rounds: both rates fall after the first and after the second."""
    runs.compare_with_loop(Dfad(rounds=5, batch_size=6, z_dim=8), paper_loop, vaccinated)


def make(**settings):
    teacher = nets.wrn(base_width=4).freeze()
    method = Dfad(batch_size=4, z_dim=4, generator_channels=4, **settings)
    return Trainer(teacher, nets.wrn(seed=1, base_width=4), method, [], runs.QUIET)


def test_rates_at_the_published_size():
    """The generator's step at the beginning of a round belongs to the round before."""
    trainer = make()
    rates = []
    for index in (0, 4_999, 5_000, 5_001, 9_999, 10_000, 10_001, 24_999):
        trainer.optimizer.begin_round(index)
        trainer.synthesizer.begin_round(index)
        rates += [trainer.optimizer.rate, trainer.synthesizer.optimizer.param_groups[0]["lr"]]
    assert rates[::2] == pytest.approx([0.1, 0.1, *[0.01] * 3, *[0.001] * 3], rel=1e-12)
    assert rates[1::2] == pytest.approx([1e-3, 1e-3, 1e-3, *[1e-4] * 3, *[1e-5] * 2], rel=1e-12)


def test_without_drops_the_generators_rate_follows_a_cosine():
    method = Dfad(rounds=10, learning_rate_drops=())
    rates = [method.generator_rate(index) for index in (0, 1, 6)]
    assert rates == pytest.approx([1e-3, 1e-3, 0.5e-3], rel=1e-12)


def test_generator_step_computes_no_gradient_for_teacher_and_student():
    figures = runs.generator_alone_learns(make(rounds=2), index=1)
    assert set(figures) == {"disagreement", "penalty"}


@pytest.mark.parametrize(
    ("field", "value"), [("z_dim", 0), ("generator_channels", 1), ("generator_learning_rate", float("nan"))]
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=rf"^dfad\.{field}: must be"):
        Dfad(**{field: value})
