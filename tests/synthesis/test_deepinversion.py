"""DeepInversion against the optimization written out from the paper, in float64."""

import copy
import math

import nets
import pytest
import runs
import torch
from torch import nn

from abd_hub import Classifier, DeepInversion, InputError, Trainer
from abd_hub.core import seeding
from abd_hub.core.contracts import DefensePlugin

SUSPICIOUS = 6  # a seed with whose permutations the shuffled copies agree on some of the images
TINY = {
    "rounds": 2,
    "batch_size": 4,
    "student_steps": 1,
    "synthesis_batch_size": 6,
    "image_steps": 4,
    # Large enough that every term moves the pixels.
    "total_variation_weight": 0.3,
    "l2_weight": 0.2,
    "bank_size": 20,
}


class Recorder(DefensePlugin):
    """Keeps what the networks see."""

    name = "recorder"

    def __init__(self):
        self.seen = []

    def drawn(self, pixels):
        self.seen.append(pixels.detach().clone())
        return pixels


def moved(x, down, right, mirrored):
    """x shifted around the border and mirrored, pixel by pixel."""
    height, width = x.shape[2:]
    found = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            to = (j + right) % width
            found[:, :, (i + down) % height, width - 1 - to if mirrored else to] = x[:, :, i, j]
    return found


def prior(x):
    """Total variation: four differences, each from the first to the second slice."""
    pairs = [
        (x[..., :, 1:], x[..., :, :-1]),
        (x[..., 1:, :], x[..., :-1, :]),
        (x[..., 1:, 1:], x[..., :-1, :-1]),
        (x[..., 1:, :-1], x[..., :-1, 1:]),
    ]
    return sum(((a - b) ** 2).sum().sqrt() for a, b in pairs)


def plain_pass(classifier, pixels):
    """Logits of a ``PlainNet`` and its distance to the statistics of its BatchNorm layers."""
    x, distance = (pixels - classifier.mean) / classifier.std, 0.0
    for layer in classifier.model.layers:
        if isinstance(layer, nn.BatchNorm2d):
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            for new, goal in ((mean, layer.running_mean), (variance, layer.running_var)):
                distance = distance + ((new - goal) ** 2).sum().sqrt()
        x = layer(x)
    return classifier.model.head(x), distance


def textbook(teacher, student, method, penalty, seed=0):
    """What the networks see in each step of round 0, and the final pixels."""
    n, steps = method.synthesis_batch_size, method.image_steps
    draw = seeding.generator(seed, "DeepInversion", 0, "noise")
    x = torch.randn(n, 3, 8, 8, generator=draw).double()
    y = [i % 5 for i in range(n)]
    draw = seeding.generator(seed, "DeepInversion", 0, "shifts")
    places = torch.randint(-method.shift, method.shift + 1, (steps, 2), generator=draw).tolist()
    mirrored = [value < 0.5 for value in torch.rand(steps, generator=draw).tolist()]
    first, second, views, clipped = 0.0, 0.0, [], 0
    for step in range(steps):
        x = x.detach().requires_grad_()
        v = moved(x, *places[step], mirrored[step])
        pixels = v * teacher.std + teacher.mean
        views.append(pixels.detach())
        t, distance = plain_pass(teacher, pixels)
        loss = -t.log_softmax(1)[range(n), y].mean() + method.batch_norm_weight * distance
        loss = loss + method.total_variation_weight * prior(v) + method.l2_weight * (v**2).sum().sqrt()
        if method.competition_weight:
            p, q = ((logits / method.competition_temperature).softmax(1) for logits in (t, student(pixels)))
            m = (p + q) / 2
            js = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
            loss = loss + method.competition_weight * (1 - js)
        if penalty is not None:
            loss = loss + penalty(pixels, t)
        (g,) = torch.autograd.grad(loss, x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        rate = method.image_learning_rate
        if method.image_schedule == "cosine":
            done, rise = step + 0.5, 0.05 * steps
            share = (done - rise) / (steps - rise)
            rate *= done / rise if done < rise else (1 + math.cos(math.pi * share)) / 2
        step_size = rate / (1 - 0.9 ** (step + 1))
        x = x.detach() - step_size * first / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        inside = ((x * teacher.std + teacher.mean).clamp(0, 1) - teacher.mean) / teacher.std
        clipped += int((inside - x).abs().gt(1e-9).sum())
        x = inside
    assert clipped, "the test would not see the clipping"
    return views, x * teacher.std + teacher.mean


@pytest.mark.parametrize(
    ("vaccinated", "settings"),
    [
        (False, {}),
        (True, {}),
        (False, {"image_schedule": "cosine", "image_steps": 21}),
        (True, {"competition_weight": 0.0, "shift": 0}),
    ],
)
def test_pixels_are_those_of_the_paper(vaccinated, settings):
    teacher, student = runs.plain_teacher_and_student()
    recorder = Recorder()
    defenses = [recorder, *([runs.VACCINE.build(teacher, SUSPICIOUS)] if vaccinated else [])]
    trainer = Trainer(teacher, student, DeepInversion(**{**TINY, **settings}), defenses, runs.QUIET)
    figures = runs.one_update(trainer)
    assert (figures["penalty"] != 0) == vaccinated
    penalty = runs.VACCINE.build(teacher, SUSPICIOUS).penalty if vaccinated else None
    views, final = textbook(teacher, copy.deepcopy(student).eval(), trainer.method, penalty)
    assert len(recorder.seen) == len(views)
    for step, (found, expected) in enumerate(zip(recorder.seen, views, strict=True)):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, msg=f"step {step}")
    bank = trainer.synthesizer.bank()
    assert torch.equal(bank.images, (final * 255).round().clamp(0, 255).to(torch.uint8))
    assert bank.labels.tolist() == [0, 1, 2, 3, 4, 0], "those of the loss"


def test_every_class_is_made_as_often_over_the_rounds():
    teacher, student = runs.plain_teacher_and_student()
    trainer = Trainer(
        teacher, student, DeepInversion(**{**TINY, "image_steps": 1, "bank_size": 30}), [], runs.QUIET
    )
    for index in range(5):
        runs.one_update(trainer, index)
    assert trainer.synthesizer.bank().labels.bincount().tolist() == [6] * 5


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_making_images_leaves_the_student_as_it_was_and_gives_no_weight_a_gradient(weight):
    teacher, student = runs.plain_teacher_and_student()
    trainer = Trainer(teacher, student, DeepInversion(**TINY, competition_weight=weight), [], runs.QUIET)
    with runs.left_alone(teacher, student) as passes:
        runs.one_update(trainer)
    assert passes == (["teacher", "student"] if weight else ["teacher"]) * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("synthesis_batch_size", 0),
        ("image_steps", 0),
        ("bank_size", 0),
        ("image_learning_rate", float("nan")),
        ("competition_temperature", 0.0),
        ("batch_norm_weight", -1.0),
        ("total_variation_weight", -1.0),
        ("l2_weight", -1.0),
        ("competition_weight", float("nan")),
        ("shift", -1),
        ("crop_padding", -1),
        ("image_schedule", "linear"),
    ],
)
def test_values_outside_their_range(field, value):
    with pytest.raises(InputError, match=rf"deepinversion\.{field}: .*got '?{value}"):
        DeepInversion(**{field: value})


def test_a_teacher_without_batch_norm_is_refused():
    teacher = Classifier(nets.PlainNet(norm=False), nets.SPEC, nets.MEAN, nets.STD).freeze()
    with pytest.raises(InputError, match=r"deepinversion: .*BatchNorm"):
        Trainer(teacher, nets.wrn(), DeepInversion(), [], runs.QUIET)
