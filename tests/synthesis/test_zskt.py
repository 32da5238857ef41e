"""The fast ZSKT loop against the loop of the paper, which recomputes everything, in float64."""

import math

import nets
import pytest
import runs
import torch
import torch.nn.functional as F

from abd_hub import Classifier, InputError, Trainer, Zskt
from abd_hub.core import seeding


def paper_loop(teacher, student, generator, method, penalty=None, seed=0):
    """Algorithm 1 of ZSKT: images, teacher answers and attention maps anew in every student step."""
    g_adam = torch.optim.Adam(generator.parameters(), lr=method.generator_learning_rate)
    s_adam = torch.optim.Adam(student.parameters(), lr=method.learning_rate)
    for index in range(method.rounds):
        annealed = 0.5 * (1 + math.cos(math.pi * index / method.rounds))
        g_adam.param_groups[0]["lr"] = method.generator_learning_rate * annealed
        s_adam.param_groups[0]["lr"] = method.learning_rate * annealed
        draw = seeding.generator(seed, "zskt", "z", index)
        z = torch.randn(method.batch_size, method.z_dim, generator=draw).double()
        g_adam.zero_grad()
        x = generator(z) * teacher.std + teacher.mean
        t, s = teacher(x), student(x)
        loss = -(t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
        if penalty is not None:
            loss = loss + penalty(x, t)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), method.clip_norm)
        g_adam.step()
        for _ in range(method.student_steps):
            s_adam.zero_grad()
            x = (generator(z) * teacher.std + teacher.mean).detach()
            t, t_blocks = teacher.forward_with_blocks(x)
            s, s_blocks = student.forward_with_blocks(x)
            loss = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")
            for a, b in zip(s_blocks, t_blocks, strict=True):
                maps = [F.normalize(f.pow(2).mean(1).flatten(1), dim=1) for f in (a, b)]
                loss = loss + method.attention_weight * (maps[0] - maps[1]).pow(2).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), method.clip_norm)
            s_adam.step()


@pytest.mark.parametrize("vaccinated", [False, True])
def test_fast_loop_gives_the_papers_student(vaccinated):
    method = Zskt(rounds=4, batch_size=6, student_steps=3, z_dim=8)
    runs.compare_with_loop(method, paper_loop, vaccinated)


def test_generator_step_computes_no_gradient_for_teacher_and_student():
    teacher = nets.wrn().freeze()
    trainer = Trainer(teacher, nets.wrn(seed=1), Zskt(rounds=1, batch_size=4), [], runs.QUIET)
    runs.generator_alone_learns(trainer)


def test_images_and_teacher_answers_are_computed_once_a_round():
    teacher = nets.wrn().freeze()
    trainer = Trainer(
        teacher, nets.wrn(seed=1), Zskt(rounds=1, batch_size=4, student_steps=7), [], runs.QUIET
    )
    calls = {"teacher": 0, "generator": 0}
    teacher.model.register_forward_pre_hook(lambda *_: calls.update(teacher=calls["teacher"] + 1))
    generator = trainer.synthesizer.generator
    generator.register_forward_pre_hook(lambda *_: calls.update(generator=calls["generator"] + 1))
    trainer._round(0)
    assert calls == {"teacher": 2, "generator": 2}


def test_sizes_that_cannot_be_doubled_twice_are_refused():
    from abd_hub import Classifier, DataSpec

    net = Classifier(nets.PlainNet(), DataSpec(3, 10, 8, tuple("abcde")), nets.MEAN, nets.STD).freeze()
    with pytest.raises(InputError, match="multiples of 4"):
        Trainer(net, nets.wrn(), Zskt(attention_weight=0), [], runs.QUIET)


@pytest.mark.parametrize("raw", [True, False])
def test_images_begin_where_natural_images_lie(raw):
    """Also for a teacher that takes raw pixels, whose mean 0 and deviation 1 say nothing about images."""
    mean, std = ((0, 0, 0), (1, 1, 1)) if raw else (nets.MEAN, nets.STD)
    teacher = Classifier(nets.PlainNet(), nets.SPEC, mean, std).freeze()
    trainer = Trainer(
        teacher, nets.wrn(seed=1), Zskt(rounds=1, batch_size=64, attention_weight=0), [], runs.QUIET
    )
    trainer.synthesizer.begin_round(0)
    images = trainer.synthesizer.sample(0).transpose(0, 1).flatten(1)
    expected = ([0.5] * 3, [0.25] * 3) if raw else (nets.MEAN, nets.STD)
    torch.testing.assert_close(images.mean(1), torch.tensor(expected[0]), atol=0.01, rtol=0)
    torch.testing.assert_close(images.std(1), torch.tensor(expected[1]), atol=0.01, rtol=0)
