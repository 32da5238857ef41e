"""What the tests of several methods share: tiny runs, and their comparison with loops written from papers."""

import copy
from contextlib import contextmanager

import nets
import torch
from torch import nn

from abd_hub import ShufflingVaccine, Trainer, TrainerOptions

QUIET = TrainerOptions(progress=False, checkpoint_every=0)
VACCINE = ShufflingVaccine(check=False, layers=2, coefficient=2.0)


def one_update(trainer, index=0):
    """The figures of the synthesizer's part of a round."""
    trainer.synthesizer.begin_round(index)
    return trainer.synthesizer.update(trainer.networks)


def plain_teacher_and_student():
    """A ``PlainNet`` and a student in training, in float64, all their weights random."""
    teacher = nets.plain(nets.randomized(nets.PlainNet())).freeze()
    student = nets.randomized(nets.wrn(seed=1, base_width=4), seed=1).double()
    return teacher, student.train()


def textbook_pass(teacher, pixels):
    """Logits, means over height and width of what the BatchNorm layers see, and DeepInversion's distance."""
    seen = []
    layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0])) for layer in layers]
    logits = teacher(pixels)
    for handle in handles:
        handle.remove()
    distance = 0
    for layer, maps in zip(layers, seen, strict=True):
        rows = maps.transpose(0, 1).flatten(1)
        distance = distance + (rows.mean(1) - layer.running_mean).pow(2).sum().sqrt()
        distance = distance + (rows.var(1, correction=0) - layer.running_var).pow(2).sum().sqrt()
    return logits, torch.cat([maps.mean((2, 3)) for maps in seen], dim=1), distance


def compare_with_loop(method, loop, vaccinated, rtol=1e-9):
    """A run with a generator and ``loop(teacher, student, generator, method, penalty)`` learn the same.

    ``rtol`` is the student's, a hundredth of it its absolute tolerance.
    """
    teacher = nets.randomized(nets.wrn("wrn_10_1", base_width=4)).double().freeze()
    student = nets.wrn("wrn_10_1", seed=1, dtype=torch.float64, base_width=4)
    defenses = [VACCINE.build(teacher, 0)] if vaccinated else []
    trainer = Trainer(teacher, student, method, defenses, QUIET)
    trainer.synthesizer.generator.double()
    generator, twin = copy.deepcopy(trainer.synthesizer.generator), copy.deepcopy(student).train()
    trainer.fit()
    penalty = VACCINE.build(teacher, 0).penalty if vaccinated else None
    loop(teacher, twin, generator, method, penalty)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], tensor, rtol=rtol, atol=rtol / 100, msg=name)
    found = nets.learned_weights(trainer.synthesizer.generator)
    for name, tensor in nets.learned_weights(generator).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)


def generator_alone_learns(trainer, index=0):
    """The figures of a generator's step, which gives neither teacher nor student a gradient."""
    before = copy.deepcopy(trainer.synthesizer.generator.state_dict())
    figures = one_update(trainer, index)
    assert all(p.grad is None for p in (*trainer.student.parameters(), *trainer.teacher.parameters()))
    after = trainer.synthesizer.generator.state_dict()
    assert not torch.equal(before["layers.0.weight"], after["layers.0.weight"])
    return figures


@contextmanager
def left_alone(teacher, student):
    """Gives a list of the networks' passes; at the end no weight has a gradient, the student is as before."""
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    passes = []
    handles = [
        teacher.register_forward_pre_hook(lambda *_: passes.append("teacher")),
        student.register_forward_pre_hook(lambda *_: passes.append("student")),
    ]
    yield passes
    for handle in handles:
        handle.remove()
    assert all(module.training for module in student.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))
