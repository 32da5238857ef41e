"""The BatchNorm prior against its definition, and what recording leaves behind, in float64."""

import nets
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from abd_hub import InputError
from abd_hub.synthesis.batch_norm import BatchNormStatistics


def inputs_of_norms(classifier, pixels):
    """Runs a ``PlainNet`` layer by layer: each BatchNorm with what it is given."""
    x, found = (pixels - classifier.mean) / classifier.std, []
    for layer in classifier.model.layers:
        if isinstance(layer, nn.BatchNorm2d):
            found.append((layer, x))
        x = layer(x)
    return found


def moments(x):
    """Mean and biased variance of each channel."""
    count = x.shape[0] * x.shape[2] * x.shape[3]
    mean = [x[:, c].sum() / count for c in range(x.shape[1])]
    variance = [((x[:, c] - mean[c]) ** 2).sum() / count for c in range(x.shape[1])]
    return torch.stack(mean), torch.stack(variance)


def distance(layer, mean, variance):
    return ((mean - layer.running_mean) ** 2).sum().sqrt() + (
        (variance - layer.running_var) ** 2
    ).sum().sqrt()


def plain_teacher():
    return nets.plain(nets.randomized(nets.PlainNet())).freeze()


def recorded(teacher, statistics, pixels):
    with statistics.recording():
        return teacher(pixels)


def test_loss_and_its_gradient_are_the_definition():
    teacher = plain_teacher()
    statistics = BatchNormStatistics(teacher, "test")
    one, other = (nets.pixels(5).requires_grad_() for _ in range(2))
    recorded(teacher, statistics, one)
    expected = sum(distance(layer, *moments(x)) for layer, x in inputs_of_norms(teacher, other))
    torch.testing.assert_close(statistics.loss(), expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in ((statistics.loss(), one), (expected, other))]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)
    statistics.remember()
    assert not statistics.averages, "there is nothing to remember without a momentum"


def test_moving_average_over_batches():
    teacher, momentum = plain_teacher(), 0.7
    statistics = BatchNormStatistics(teacher, "test", momentum)
    averages = None
    for index in range(4):
        pixels = nets.pixels(5, seed=index)
        # Twice: only what is remembered may move the averages.
        recorded(teacher, statistics, nets.pixels(5, seed=100 + index))
        recorded(teacher, statistics, pixels)
        norms = inputs_of_norms(teacher, pixels)
        latest = [moments(x) for _, x in norms]
        if averages is not None:
            latest = [
                tuple((1 - momentum) * new + momentum * old for new, old in zip(*pairs, strict=True))
                for pairs in zip(latest, averages, strict=True)
            ]
        expected = sum(distance(layer, *pair) for (layer, _), pair in zip(norms, latest, strict=True))
        torch.testing.assert_close(statistics.loss(), expected, rtol=1e-12, atol=0)
        statistics.remember()
        averages = latest
        flat = [moment for pair in averages for moment in pair]
        torch.testing.assert_close(statistics.averages, flat, rtol=1e-12, atol=1e-14)


class Backwards(nn.Module):
    """Its BatchNorm layers are registered in another order than they run in, and one never runs."""

    def __init__(self):
        super().__init__()
        self.unused, self.last, self.first = (nn.BatchNorm2d(3) for _ in range(3))
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.last(torch.tanh(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_each_layer_is_compared_with_its_own_statistics(momentum):
    teacher = nets.plain(nets.randomized(Backwards())).freeze()
    model = teacher.model
    statistics = BatchNormStatistics(teacher, "test", momentum)
    for _ in range(2):  # the same batch again: its average is itself
        recorded(teacher, statistics, nets.pixels(5))
        x = (nets.pixels(5) - teacher.mean) / teacher.std
        expected = distance(model.first, *moments(x))
        expected = expected + distance(model.last, *moments(torch.tanh(model.first(x))))
        torch.testing.assert_close(statistics.loss(), expected, rtol=1e-12, atol=0)
        statistics.remember()


def test_norms_of_timm_that_hold_their_activation_count():
    model = nn.Sequential(BatchNormAct2d(3), nn.Flatten(), nn.Linear(192, 5))
    teacher = nets.plain(nets.randomized(model)).freeze()
    statistics = BatchNormStatistics(teacher, "test")
    recorded(teacher, statistics, nets.pixels(5))
    expected = distance(model[0], *moments((nets.pixels(5) - teacher.mean) / teacher.std))
    torch.testing.assert_close(statistics.loss(), expected, rtol=1e-12, atol=0)


def test_recording_leaves_the_teacher_as_it_was():
    teacher = plain_teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    alone = teacher(nets.pixels(5))
    statistics = BatchNormStatistics(teacher, "test", 0.9)
    assert torch.equal(recorded(teacher, statistics, nets.pixels(5)), alone)
    statistics.remember()
    with pytest.raises(InputError):
        recorded(teacher, statistics, nets.pixels(5)[0])
    for module in teacher.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_pass_outside_leaves_no_trace():
    teacher = plain_teacher()
    statistics = BatchNormStatistics(teacher, "test")
    recorded(teacher, statistics, nets.pixels(5))
    seen = statistics.loss()
    teacher(nets.pixels(5, seed=1))
    assert torch.equal(statistics.loss(), seen)


@pytest.mark.parametrize("tracking", [False, True])
def test_a_teacher_without_statistics_is_refused_before_any_work(tracking):
    model = nets.PlainNet(norm=False)
    if tracking:  # a BatchNorm that keeps none is none
        model.layers.insert(1, nn.BatchNorm2d(4, track_running_stats=False))
    teacher = nets.plain(model).freeze()
    passes = []
    teacher.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(InputError, match=r"test: .*BatchNorm.*zskt"):
        BatchNormStatistics(teacher, "test")
    assert not passes
