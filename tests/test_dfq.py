"""DFQ against its losses written out, in float64."""

import copy
import math

import nets
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Dfq, InputError, ShufflingVaccine, Trainer, TrainerOptions, seeding

QUIET = TrainerOptions(progress=False, checkpoint_every=0)


def with_statistics(teacher, pixels):
    """Logits, and the sum over BatchNorm layers and both statistics of the distance to the running ones."""
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs = {}
    handles = [n.register_forward_hook(lambda n, args, _: inputs.update({n: args[0]})) for n in norms]
    logits = teacher(pixels)
    for handle in handles:
        handle.remove()
    total = 0.0
    for norm in norms:
        channels = inputs[norm].transpose(0, 1).flatten(1)
        mean = channels.sum(1) / channels.shape[1]
        variance = (channels - mean[:, None]).pow(2).sum(1) / channels.shape[1]
        total = total + (mean - norm.running_mean).pow(2).sum().sqrt()
        total = total + (variance - norm.running_var).pow(2).sum().sqrt()
    return logits, total


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
        t, statistics = with_statistics(teacher, x)
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
    teacher = nets.randomised(nets.wrn("wrn_10_1", base_width=4)).double().freeze()
    student = nets.wrn("wrn_10_1", seed=1, dtype=torch.float64, base_width=4)
    settings = ShufflingVaccine(check=False, layers=2, coefficient=2.0)
    defenses = [settings.build(teacher, 0)] if vaccinated else []
    method = Dfq(rounds=3, batch_size=6, z_dim=8)
    trainer = Trainer(teacher, student, method, defenses, QUIET)
    trainer.synthesizer.generator.double()
    generator, twin = copy.deepcopy(trainer.synthesizer.generator), copy.deepcopy(student).train()
    trainer.fit()
    penalty = settings.build(teacher, 0).penalty if vaccinated else None
    textbook_loop(teacher, twin, generator, method, penalty)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    found = nets.learned_weights(trainer.synthesizer.generator)
    for name, tensor in nets.learned_weights(generator).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)


def test_generator_step_computes_no_gradient_for_teacher_and_student():
    teacher = nets.wrn().freeze()
    trainer = Trainer(teacher, nets.wrn(seed=1), Dfq(rounds=1, batch_size=4), [], QUIET)
    before = copy.deepcopy(trainer.synthesizer.generator.state_dict())
    trainer.synthesizer.begin_round(0)
    trainer.synthesizer.update(trainer.student, trainer.defense)
    assert all(p.grad is None for p in (*trainer.student.parameters(), *teacher.parameters()))
    after = trainer.synthesizer.generator.state_dict()
    assert not torch.equal(before["layers.0.weight"], after["layers.0.weight"])


def test_a_teacher_without_batch_norm_is_refused():
    teacher = nets.plain(nets.PlainNet(norm=False), torch.float32).freeze()
    with pytest.raises(InputError, match=r"^dfq: .*BatchNorm"):
        Trainer(teacher, nets.wrn(), Dfq(rounds=1, batch_size=4), [], QUIET)


@pytest.mark.parametrize(
    "field", ["adversarial_weight", "batch_norm_weight", "one_hot_weight", "entropy_weight"]
)
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_weights_below_zero_are_refused(field, value):
    with pytest.raises(InputError, match=rf"^dfq\.{field}: must not be negative, got"):
        Dfq(**{field: value})
