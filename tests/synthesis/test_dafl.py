"""DAFL against the loop of the authors, in float64, and where its features come from."""

import math

import nets
import pytest
import runs
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Dafl, InputError, Trainer
from abd_hub.core import seeding
from abd_hub.synthesis.last_linear import LastLinear


def features_of(teacher, pixels):
    """What the last layer of a wide residual network reads, without a hook."""
    net = teacher.model
    return net.forward_head(net.forward_features((pixels - teacher.mean) / teacher.std), pre_logits=True)


def authors_loop(teacher, student, generator, method, penalty=None, seed=0):
    """Weights 0.05, 5 (decimal logarithm) and 0.01; the rate falls at 800 and 1600 of 2000 epochs."""
    g_adam = torch.optim.Adam(generator.parameters(), lr=0.02)
    s_sgd = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for index in range(method.rounds):
        epoch = 2000 * index / method.rounds
        s_sgd.param_groups[0]["lr"] = 0.1 if epoch < 800 else 0.01 if epoch < 1600 else 0.001
        chance = seeding.generator(seed, "dafl", "z", index)
        z = torch.randn(method.batch_size, method.z_dim, generator=chance).double()
        x = generator(z) * teacher.std + teacher.mean
        t = teacher(x)
        loss = 0.05 * F.cross_entropy(t, t.argmax(1)) - 0.01 * features_of(teacher, x).abs().mean()
        mean = t.softmax(1).mean(0)
        loss = loss + 5 * (mean * mean.log10()).sum()
        if penalty is not None:
            loss = loss + penalty(x, t)
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
        t, s = t.detach(), student(x.detach())
        s_sgd.zero_grad()
        (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean().backward()
        s_sgd.step()


@pytest.mark.parametrize("vaccinated", [False, True])
def test_student_and_generator_are_those_of_the_authors_loop(vaccinated):
    """Five rounds: the student's rate falls after the second and after the fourth."""
    runs.compare_with_loop(Dafl(rounds=5, batch_size=6, z_dim=8), authors_loop, vaccinated)


def test_the_weight_of_the_entropy_is_the_authors_five_decimal_digits():
    assert Dafl().entropy_weight * math.log(1000) == pytest.approx(5 * math.log10(1000), rel=1e-12)


def test_rates_at_the_published_size():
    """1600 of 2000 epochs of 120."""
    teacher = nets.wrn(base_width=4).freeze()
    method = Dafl(batch_size=2, z_dim=4, generator_channels=4)
    trainer = Trainer(teacher, nets.wrn(seed=1, base_width=4), method, [], runs.QUIET)
    rates = []
    for index in (0, 800 * 120 - 1, 800 * 120, 1600 * 120 - 1, 1600 * 120, method.rounds - 1):
        trainer.optimizer.begin_round(index)
        trainer.synthesizer.begin_round(index)
        rates.append(trainer.optimizer.rate)
        assert trainer.synthesizer.optimizer.param_groups[0]["lr"] == 0.02
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


def test_generator_step_computes_no_gradient_for_teacher_and_student():
    teacher = nets.wrn().freeze()
    trainer = Trainer(teacher, nets.wrn(seed=1), Dafl(rounds=1, batch_size=4), [], runs.QUIET)
    runs.generator_alone_learns(trainer)


def test_images_begin_where_natural_images_lie():
    teacher = nets.wrn().freeze()
    trainer = Trainer(teacher, nets.wrn(seed=1), Dafl(rounds=1, batch_size=64), [], runs.QUIET)
    trainer.synthesizer.begin_round(0)
    images = trainer.synthesizer.sample(0).transpose(0, 1).flatten(1)
    torch.testing.assert_close(images.mean(1), torch.tensor(nets.MEAN), atol=0.01, rtol=0)
    torch.testing.assert_close(images.std(1), torch.tensor(nets.STD), atol=0.01, rtol=0)


class Misleading(nn.Module):
    """Linear layers with five outputs before the last one, registered after it, or never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 5)
        self.early = nn.Linear(3, 5)
        self.unused = nn.Linear(7, 5)
        self.narrow = nn.Linear(5, 2)

    def forward(self, x):
        hidden = torch.tanh(self.early(x.mean((2, 3))))
        return self.head(hidden) + self.narrow(hidden).sum(1, keepdim=True)


def test_features_are_what_the_layer_that_gives_the_logits_reads():
    teacher = nets.plain(nets.randomized(Misleading())).freeze()
    last = LastLinear(teacher, "dafl")
    images = nets.pixels(4).requires_grad_()
    with last.recording() as features:
        teacher(images)
    assert last.layer is teacher.model.head
    expected = torch.tanh(teacher.model.early(teacher.normalize(images).mean((2, 3))))
    torch.testing.assert_close(features[-1], expected, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(features[-1].sum(), images)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), images)[0], rtol=1e-12, atol=0)
    teacher(images)
    assert len(features) == 1, "nothing is recorded outside"


class ConvolutionalHead(nn.Module):
    """Logits from a 1x1 convolution; its only linear layer has other outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 6)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.head(self.hidden(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))


def test_a_teacher_without_a_linear_head_is_refused_unless_no_feature_is_asked_for():
    teacher = nets.plain(ConvolutionalHead(), torch.float32).freeze()
    with pytest.raises(InputError, match=r"^dafl\.activation_weight: .* set it to 0 or use zskt or dfad$"):
        Trainer(teacher, nets.wrn(), Dafl(rounds=1, batch_size=4), [], runs.QUIET)
    Trainer(teacher, nets.wrn(), Dafl(rounds=1, batch_size=4, activation_weight=0), [], runs.QUIET).fit()


@pytest.mark.parametrize("field", ["one_hot_weight", "entropy_weight", "activation_weight"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_weights_below_zero_are_refused(field, value):
    with pytest.raises(InputError, match=rf"^dafl\.{field}: must (not be negative|be a finite number), got"):
        Dafl(**{field: value})
