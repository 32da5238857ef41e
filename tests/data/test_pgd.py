"""Projected gradient descent against its definition."""

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from abd_hub.core import seeding
from abd_hub.data.pgd import perturb

CLASSES = 5


def linear(seed=0):
    draw = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(3 * 8 * 8, CLASSES).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(CLASSES, 192, generator=draw, dtype=torch.float64))
        layer.bias.zero_()
    return torch.nn.Sequential(torch.nn.Flatten(), layer), layer.weight.detach().numpy()


def textbook(weight, image, label, start, radius, steps):
    """One image, softmax regression: the gradient of the cross-entropy is W^T (softmax(Wx) - e_label)."""
    low, high = np.maximum(image - radius, 0), np.minimum(image + radius, 1)
    x = low + (high - low) * start
    for _ in range(steps):
        scores = weight @ x
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        shares[label] -= 1
        x = np.clip(x + 2.5 * radius / steps * np.sign(weight.T @ shares), low, high)
    return x


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_it_follows_the_textbook(steps):
    model, weight = linear()
    pixels, labels = nets.pixels(6), torch.arange(6) % CLASSES
    found = perturb(model, pixels, labels, 16 / 255, steps, seed=7)
    start = torch.rand(pixels.shape, generator=seeding.generator(7, "pgd"), dtype=torch.float64)
    for index in range(6):
        image, begin = pixels[index].flatten().numpy(), start[index].flatten().numpy()
        expected = textbook(weight, image, int(labels[index]), begin, 16 / 255, steps)
        np.testing.assert_allclose(found[index].flatten().numpy(), expected, atol=1e-12)


def test_it_stays_in_the_ball_and_in_range_and_misleads():
    model = nets.randomized(nets.plain(nets.PlainNet())).eval()
    pixels, labels = nets.pixels(20), torch.arange(20) % CLASSES
    before = pixels.clone()
    found = perturb(model, pixels, labels, 0.06, 20, seed=0)
    assert torch.equal(pixels, before)
    assert not found.requires_grad
    assert (found - pixels).abs().max() <= 0.06 + 1e-12
    assert found.min() >= 0
    assert found.max() <= 1
    losses = [F.cross_entropy(model(x), labels).item() for x in (pixels, found)]
    assert losses[1] > losses[0] + 0.1
    assert all(weight.grad is None for weight in model.parameters())
