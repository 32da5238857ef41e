"""DFQ against its losses written out, in float64."""

import math

import nets
import pytest
import runs
import torch
import torch.nn.functional as F

from abd_hub import Dfq, InputError, Trainer
from abd_hub.core import seeding


def divergence(t, s, temperature):
    p, q = (t / temperature).softmax(1), (s / temperature).softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def textbook_loop(teacher, student, generator, method, penalty=None, seed=0):
    """One generator step, then ten student steps on fresh images; T = 20 for the student, 1 for G."""
    g_adam = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    s_sgd = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def draw(*purpose):
        chance = seeding.generator(seed, "dfq", *purpose)
        return torch.randn(method.batch_size, method.z_dim, generator=chance).double()

    for index in range(method.rounds):
        s_sgd.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * index / method.rounds)) / 2
        x = generator(draw("z", index))
        assert x.min() >= 0 and x.max() <= 1
        t, _, statistics = runs.textbook_pass(teacher, x)
        mean = t.softmax(1).mean(0)
        loss = -divergence(t, student(x), 1) + statistics + F.cross_entropy(t, t.argmax(1))
        loss = loss + 20 * (mean * mean.log()).sum()
        if penalty is not None:
            loss = loss + penalty(x, t)
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
        for step in range(10):
            x = generator(draw("student z", index, step)).detach()
            s_sgd.zero_grad()
            (400 * divergence(teacher(x), student(x), 20)).backward()
            s_sgd.step()


@pytest.mark.parametrize("vaccinated", [False, True])
def test_student_and_generator_are_those_of_the_textbook_loop(vaccinated):
    runs.compare_with_loop(Dfq(rounds=3, batch_size=6, z_dim=8), textbook_loop, vaccinated, rtol=1e-8)


def test_generator_step_computes_no_gradient_for_teacher_and_student():
    teacher = nets.wrn().freeze()
    trainer = Trainer(teacher, nets.wrn(seed=1), Dfq(rounds=1, batch_size=4), [], runs.QUIET)
    runs.generator_alone_learns(trainer)


def test_a_teacher_without_batch_norm_is_refused():
    teacher = nets.plain(nets.PlainNet(norm=False), torch.float32).freeze()
    with pytest.raises(InputError, match=r"^dfq: .*BatchNorm"):
        Trainer(teacher, nets.wrn(), Dfq(rounds=1, batch_size=4), [], runs.QUIET)


@pytest.mark.parametrize(
    "field", ["adversarial_weight", "batch_norm_weight", "one_hot_weight", "entropy_weight"]
)
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_weights_below_zero_are_refused(field, value):
    with pytest.raises(InputError, match=rf"^dfq\.{field}: must (not be negative|be a finite number), got"):
        Dfq(**{field: value})
