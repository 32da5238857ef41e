"""Layers with second derivatives of their own against PyTorch's, in float64."""

import nets
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub.learning.modes import running_statistics_kept
from abd_hub.learning.twice_differentiable import twice_differentiable


class Strided(nn.Sequential):
    """Strides, dilation, groups, biases, padding by name, maps without a weight of their own."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.Softplus(),
            nn.Conv2d(8, 8, 3, padding=(2, 1), dilation=(2, 1), groups=4, bias=False),
            nn.BatchNorm2d(8, affine=False),
            nn.Conv2d(8, 6, 3, padding="same"),
            nn.Flatten(),
            nn.LazyLinear(5),
        )


def timm_net(name, **options):
    return timm.create_model(name, num_classes=5, **options)


NETS = {
    "wide resnet": nets.wrn,
    "strides, groups and biases": Strided,
    "depthwise": lambda: timm_net("mobilenetv2_035"),
    "layer norm": lambda: timm_net("test_convnext"),
    "resnet": lambda: timm_net("resnet18"),
}


def derivatives(net, images):
    """What self-retrospection asks for: gradients, products with the Hessian, mixed second derivatives."""
    delta = torch.zeros_like(images[:1]).requires_grad_()
    weights = list(net.parameters())
    with running_statistics_kept(net):
        value = F.log_softmax(net(images + delta), dim=1)[:, 0].sum()
        direct = torch.autograd.grad(value, [delta, *weights], retain_graph=True, allow_unused=True)
        (slope,) = torch.autograd.grad(value, [delta], create_graph=True)
        v = torch.linspace(-1, 1, delta.numel(), dtype=delta.dtype).view_as(delta)
        (product,) = torch.autograd.grad(slope, [delta], grad_outputs=v, retain_graph=True)
        mixed = torch.autograd.grad(slope, weights, grad_outputs=product, allow_unused=True)
    return [*direct, product, *mixed]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETS)
def test_second_derivatives_are_those_of_pytorch(name, layout):
    torch.manual_seed(0)
    net = NETS[name]().double().train()
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 40, 40, generator=draw).double().contiguous(memory_format=layout)
    net(images)  # sizes of lazy layers
    net = net.to(memory_format=layout)
    expected = derivatives(net, images)
    with twice_differentiable():
        found = derivatives(net, images)
    scale = max(float(tensor.abs().max()) for tensor in expected if tensor is not None)
    differing = 0
    for ours, theirs in zip(found, expected, strict=True):
        # What does not depend is None here, zero there, or the other way round.
        here, there = (torch.zeros(()) if tensor is None else tensor for tensor in (ours, theirs))
        torch.testing.assert_close(here.expand_as(there), there, rtol=1e-9, atol=1e-11 * scale)
        differing += bool(there.abs().max() > 0)
    assert differing > len(expected) / 3, "enough of them are no zeros"


def test_outside_evaluation_and_recorded_statistics_are_pytorchs():
    net = nets.wrn().train()
    images = nets.pixels(6).float()
    with twice_differentiable():
        before = {name: buffer.clone() for name, buffer in net.named_buffers() if "running" in name}
        net(images)
        after = dict(net.named_buffers())
        assert before and all(not torch.equal(buffer, after[name]) for name, buffer in before.items())
        inside = net.eval()(images)
    torch.testing.assert_close(inside, net(images))
