"""Fast against the round written out from the paper, in float64."""

import copy
import json
import math
from types import SimpleNamespace

import nets
import pytest
import runs
import torch
from torch import nn

from abd_hub import Classifier, Fast, InputError, Trainer, TrainerOptions
from abd_hub.core import seeding

SUSPICIOUS = 6  # a seed with whose permutations the shuffled copies agree on some of the images
TINY = {
    "rounds": 3,
    "batch_size": 4,
    "student_steps": 1,
    "warmup_rounds": 1,
    "synthesis_batch_size": 7,
    "generator_steps": 4,
    "generator_learning_rate": 0.02,
    "noise_learning_rate": 0.3,
    "reset_first_layer_round": 0,
    "z_dim": 5,
    "generator_channels": 4,
    "bank_size": 30,
    "crop_padding": 2,
}


def at_work(teacher, student, defenses=(), **settings):
    """The trainer of a tiny run, its meta generator in float64."""
    trainer = Trainer(teacher, student, Fast(**{**TINY, **settings}), defenses, runs.QUIET)
    trainer.synthesizer.generator.double()
    return trainer


def crops(images, padding, draw):
    """One image after the other, padded, cut and mirrored."""
    n, _, height, width = images.shape
    tops, lefts = torch.randint(2 * padding + 1, (2, n), generator=draw).tolist()
    mirrored = [value < 0.5 for value in torch.rand(n, generator=draw).tolist()]
    found = []
    for image, top, left, mirror in zip(images, tops, lefts, mirrored, strict=True):
        wide = nn.functional.pad(image, [padding] * 4)
        cut = wide[:, top : top + height, left : left + width]
        found.append(cut.flip(2) if mirror else cut)
    return torch.stack(found)


def plain_pass(classifier, pixels):
    """Logits of a ``PlainNet``, and for each BatchNorm mean and variance of its input and those it keeps."""
    x, moments = (pixels - classifier.mean) / classifier.std, []
    for layer in classifier.model.layers:
        if isinstance(layer, nn.BatchNorm2d):
            mean = x.mean((0, 2, 3))
            centered = x - mean.view(1, -1, 1, 1)
            moments.append((mean, (centered**2).mean((0, 2, 3)), layer.running_mean, layer.running_var))
        x = layer(x)
    return classifier.model.head(x), moments


class Adam:
    """Kingma & Ba, ICLR 2015, algorithm 1."""

    def __init__(self, rate, count, beta1=0.5, beta2=0.999):
        self.rate, self.beta1, self.beta2 = rate, beta1, beta2
        self.first, self.second, self.steps = [0.0] * count, [0.0] * count, 0

    def __call__(self, values, gradients):
        self.steps += 1
        found = []
        for i, (value, g) in enumerate(zip(values, gradients, strict=True)):
            self.first[i] = self.beta1 * self.first[i] + (1 - self.beta1) * g
            self.second[i] = self.beta2 * self.second[i] + (1 - self.beta2) * g**2
            m = self.first[i] / (1 - self.beta1**self.steps)
            v = self.second[i] / (1 - self.beta2**self.steps)
            found.append((value - self.rate * m / (v.sqrt() + 1e-8)).detach())
        return found


def textbook(teacher, student, generator, method, penalty, rounds, seed=0):
    """Meta weights, images and labels of the bank, moving averages, and by round the step that was kept."""
    names = [name for name, _ in generator.named_parameters()]
    meta = [weight.detach().clone() for weight in generator.parameters()]
    outer = Adam(method.generator_learning_rate * method.generator_steps, len(meta))
    averages, kept, labels, chosen = None, [], [], []
    for index in range(rounds):
        z = torch.randn(
            method.synthesis_batch_size, method.z_dim, generator=seeding.generator(seed, "Fast", index, "z")
        ).double()
        draw = seeding.generator(seed, "Fast", index, "classes")
        y = torch.randint(5, (method.synthesis_batch_size,), generator=draw)
        weights, total = list(meta), [torch.zeros_like(weight) for weight in meta]
        inner = Adam(method.generator_learning_rate, len(meta))
        inner_z = Adam(method.noise_learning_rate, 1)
        losses, batches = [], []
        for step in range(method.generator_steps):
            leaves = [value.clone().requires_grad_() for value in (*weights, z)]
            images = torch.func.functional_call(generator, dict(zip(names, leaves, strict=False)), leaves[-1])
            draw = seeding.generator(seed, "Fast", index, "view", step, 0)
            x = crops(images, method.crop_padding, draw)
            t, moments = plain_pass(teacher, x)
            loss = -method.one_hot_weight * t.log_softmax(1)[range(len(y)), y].mean()
            for place, (mean, variance, goal_mean, goal_variance) in enumerate(moments):
                for new, goal, which in ((mean, goal_mean, 0), (variance, goal_variance, 1)):
                    smooth = new
                    if averages is not None:
                        old = averages[2 * place + which]
                        smooth = (1 - method.batch_norm_momentum) * new + method.batch_norm_momentum * old
                    loss = loss + method.batch_norm_weight * ((smooth - goal) ** 2).sum().sqrt()
            if index >= method.warmup_rounds:
                s = student(x)
                divergence = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1)
                same = (t.argmax(1) == s.argmax(1)).double()
                loss = loss - method.adversarial_weight * (same * divergence).sum() / len(y)
            if penalty is not None:
                loss = loss + penalty(x, t)
            losses.append(loss.item())
            batches.append(images.detach())
            gradients = torch.autograd.grad(loss, leaves)
            total = [a + b for a, b in zip(total, gradients[:-1], strict=True)]
            weights = inner(weights, gradients[:-1])
            (z,) = inner_z([z], gradients[-1:])
        chosen.append(losses.index(min(losses)))
        kept.append(batches[chosen[-1]])
        labels.append(y)
        latest = [moment.detach() for row in moments for moment in row[:2]]
        m = method.batch_norm_momentum
        averages = (
            latest
            if averages is None
            else [(1 - m) * new + m * old for new, old in zip(latest, averages, strict=True)]
        )
        meta = outer(meta, total)
    return meta, torch.cat(kept), torch.cat(labels), averages, chosen


@pytest.mark.parametrize("vaccinated", [False, True])
def test_rounds_are_those_of_the_paper(vaccinated):
    teacher, student = runs.plain_teacher_and_student()
    trainer = at_work(teacher, student, [runs.VACCINE.build(teacher, SUSPICIOUS)] if vaccinated else [])
    generator = copy.deepcopy(trainer.synthesizer.generator)
    figures = [runs.one_update(trainer, index) for index in range(2)]
    penalty = runs.VACCINE.build(teacher, SUSPICIOUS).penalty if vaccinated else None
    meta, kept, labels, averages, chosen = textbook(
        teacher, copy.deepcopy(student).eval(), generator, trainer.method, penalty, 2
    )
    expected = dict(zip(dict(generator.named_parameters()), meta, strict=True))
    for name, found in nets.learned_weights(trainer.synthesizer.generator).items():
        torch.testing.assert_close(found.detach(), expected[name], rtol=1e-8, atol=1e-10, msg=name)
    bank = trainer.synthesizer.bank()
    assert torch.equal(bank.images, (kept * 255).round().to(torch.uint8))
    assert torch.equal(bank.labels, labels)
    torch.testing.assert_close(trainer.synthesizer.statistics.averages, averages, rtol=1e-9, atol=1e-11)
    # Else the test would not see these parts.
    assert any(step < trainer.method.generator_steps - 1 for step in chosen), chosen
    assert figures[0]["agreed_divergence"] == 0 < figures[1]["agreed_divergence"]
    assert (figures[1]["penalty"] != 0) == vaccinated


def test_making_images_leaves_the_student_as_it_was_and_gives_no_weight_a_gradient():
    teacher, student = runs.plain_teacher_and_student()
    trainer = at_work(teacher, student)
    for index, expected in ((0, ["teacher"] * 4), (1, ["teacher", "student"] * 4)):
        with runs.left_alone(teacher, student) as passes:
            runs.one_update(trainer, index)
        assert passes == expected


def test_only_the_first_layer_is_drawn_anew_and_only_in_its_round():
    teacher, student = runs.plain_teacher_and_student()
    still = {"generator_learning_rate": 1e-12, "reset_first_layer_round": 1, "z_dim": 50}
    trainer = at_work(teacher, student, **still)
    generator = trainer.synthesizer.generator
    changed = []
    for index in range(3):
        before = {name: weight.detach().clone() for name, weight in generator.named_parameters()}
        runs.one_update(trainer, index)
        changed.append(
            {
                name
                for name, weight in generator.named_parameters()
                if (weight - before[name]).abs().max() > 1e-9
            }
        )
    linear, norm = "layers.0", "layers.2"
    reset = {f"{linear}.weight", f"{linear}.bias", f"{norm}.weight"}  # the norm's bias is 0 anyway
    assert changed == [set(), reset, set()]
    weights = dict(generator.named_parameters())
    assert weights[f"{linear}.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert weights[f"{norm}.weight"].abs().max() < 0.1
    assert all(weights[f"{layer}.bias"].abs().max() < 1e-9 for layer in (linear, norm))


def test_the_student_waits_for_the_warmup_and_then_learns_from_the_bank():
    teacher, student = runs.plain_teacher_and_student()
    trainer = at_work(teacher.float(), student.float())
    trainer.synthesizer.generator.float()
    trainer.student.train()
    before = [weight.detach().clone() for weight in student.parameters()]
    trainer._round(0)
    assert all(torch.equal(*pair) for pair in zip(before, student.parameters(), strict=True))
    assert len(trainer.synthesizer.bank()) == 7
    trainer._round(1)
    assert any(not torch.equal(*pair) for pair in zip(before, student.parameters(), strict=True))
    assert [Fast().steps_in(index) for index in (0, 19, 20, 219)] == [0, 0, 400, 400]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("synthesis_batch_size", 0),
        ("generator_steps", 0),
        ("z_dim", 0),
        ("bank_size", 0),
        ("generator_channels", 1),
        ("generator_learning_rate", 0.0),
        ("noise_learning_rate", float("nan")),
        ("batch_norm_weight", -1.0),
        ("one_hot_weight", -1.0),
        ("adversarial_weight", float("nan")),
        ("crop_padding", -1),
        ("reset_first_layer_round", -1),
        ("batch_norm_momentum", 1.0),
        ("warmup_rounds", 220),
        ("warmup_rounds", -1),
    ],
)
def test_values_outside_their_range(field, value):
    with pytest.raises(InputError, match=rf"fast\.{field}: .*got {value}"):
        Fast(**{field: value})


def test_the_students_rate_falls_from_its_first_step_on(tmp_path):
    """The cosine counts the rounds after the warm-up: whole in the first, half midway, then to zero."""
    teacher, student = runs.plain_teacher_and_student()
    method = Fast(**{**TINY, "rounds": 6, "warmup_rounds": 2, "learning_rate": 0.5})
    options = TrainerOptions(progress=False, checkpoint_every=0, log_every=1)
    trainer = Trainer(teacher, student, method, (), options, folder=tmp_path)
    trainer.synthesizer.generator.double()
    trainer.fit()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    exact = [0.25 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates[2:] == pytest.approx(exact)


@pytest.mark.parametrize(("images", "processes"), [(8, 3), (3, 2), (1, 1)])
def test_a_batch_that_the_processes_cannot_share(images, processes):
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=processes, mixed_precision="no")
    teacher = Classifier(nets.PlainNet(), nets.SPEC, nets.MEAN, nets.STD).freeze()
    with pytest.raises(InputError, match=rf"fast\.synthesis_batch_size: .*got {images}"):
        Fast(synthesis_batch_size=images).build(teacher, accelerator, 0)


def test_a_teacher_without_batch_norm_is_refused():
    teacher = Classifier(nets.PlainNet(norm=False), nets.SPEC, nets.MEAN, nets.STD).freeze()
    with pytest.raises(InputError, match=r"fast: .*BatchNorm"):
        Trainer(teacher, nets.wrn(), Fast(), [], runs.QUIET)


def test_a_line_of_the_log_averages_over_the_rounds_with_student_steps(tmp_path):
    """Rounds of the warm-up have no student loss: they must not make the first line's mean smaller."""
    teacher, student = runs.plain_teacher_and_student()
    method = Fast(**{**TINY, "rounds": 8, "warmup_rounds": 3, "learning_rate": 1e-12, "student_steps": 4})
    options = TrainerOptions(progress=False, checkpoint_every=0, log_every=4)
    trainer = Trainer(teacher, student, method, (), options, folder=tmp_path)
    trainer.synthesizer.generator.double()
    trainer.fit()
    first, second = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert first["student_loss"] == pytest.approx(second["student_loss"], rel=0.3)
