"""Passes in bfloat16."""

import pytest
import torch
from torch import nn

from abd_hub import TrainerOptions
from abd_hub.learning.precision import in_precision
from abd_hub.runs.purified_teacher import inspection_precision


def test_logits_keep_the_type_of_the_pixels_and_gradients_reach_both_ends():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    pixels = torch.rand(4, 3, 8, 8, requires_grad=True)
    exact = model(pixels)
    assert in_precision(model, "no") is model

    rounded = in_precision(model, "bf16")(pixels)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.02, "bfloat16 has eight bits"
    ends = (pixels, *model.parameters())
    for one, other in zip(
        torch.autograd.grad(exact.square().sum(), ends),
        torch.autograd.grad(rounded.square().sum(), ends),
        strict=True,
    ):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.05 * one.norm()


@pytest.mark.parametrize(("run", "inspection"), [("no", "no"), ("bf16", "bf16"), ("fp16", "no")])
def test_the_inspections_of_a_run_have_its_precision(run, inspection):
    assert inspection_precision(TrainerOptions(mixed_precision=run)) == inspection
