"""MM-BD against scipy and against exact answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from planted import TARGET, planted
from torch import nn

from abd_hub import Classifier, DataSpec, InputError, MmBd, inspect_model
from abd_hub.inspection.mm_bd import fit_gamma, margins_of, maximum_p_value

SAMPLES = [
    [1.0, 2.0, 3.0, 4.0],
    [20.1, 20.2, 19.7, 20.05, 19.9, 20.4, 20.0, 20.3, 19.8],
    [0.01, 3.0, 0.2, 11.0, 0.5, 0.7],
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_fit_is_the_maximum_of_the_likelihood(sample):
    shape, scale = fit_gamma(torch.tensor(sample, dtype=torch.float64))
    wanted, _, wanted_scale = scipy.stats.gamma.fit(sample, floc=0)
    assert float(shape) == pytest.approx(wanted, rel=1e-7)
    assert float(scale) == pytest.approx(wanted_scale, rel=1e-7)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("factor", [1.01, 1.5, 3.0])
def test_the_p_value(sample, factor):
    largest = factor * max(sample)
    shape, _, scale = scipy.stats.gamma.fit(sample, floc=0)
    wanted = 1 - scipy.stats.gamma.cdf(largest, shape, scale=scale) ** (len(sample) + 1)
    assert maximum_p_value([*sample, largest]) == pytest.approx(wanted, rel=1e-6, abs=1e-13)


def test_p_values_at_the_edges():
    assert maximum_p_value([1.0, 1.0]) == 1
    assert maximum_p_value([-1.0, -2.0, 5.0, 1.0]) == 1, "two positive ones allow no fit"
    assert maximum_p_value([2.0] * 10) == pytest.approx(1, abs=1e-3)
    assert maximum_p_value([2.0] * 9 + [50.0]) < 1e-6


def test_margins():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    assert margins_of(logits, 0).tolist() == [1.0, -5.0]
    assert margins_of(logits, 2).tolist() == [-1.0, -6.0]


def linear(weights):
    """A linear classifier, whose largest margin over [0, 1]^d can be written down."""
    layer = nn.Linear(3 * 4 * 4, len(weights))
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.zero_()
    spec = DataSpec(3, 4, 4, tuple(map(str, range(len(weights)))))
    return Classifier(nn.Sequential(nn.Flatten(), layer), spec, (0, 0, 0), (1, 1, 1)).freeze()


def largest_margin(weights, label):
    """A linear program: t <= (w_label - w_j) x for all j, with x in the box."""
    size = weights.shape[1]
    others = np.delete(np.arange(len(weights)), label)
    rows = np.hstack([weights[others] - weights[label], np.ones((len(others), 1))])
    goal = np.append(np.zeros(size), -1.0)
    bounds = [(0, 1)] * size + [(None, None)]
    return -scipy.optimize.linprog(goal, A_ub=rows, b_ub=np.zeros(len(others)), bounds=bounds).fun


def test_the_margin_of_a_linear_classifier():
    weights = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    report = inspect_model(linear(weights), inspection=MmBd(learning_rate=0.05, starts=8))
    for label, found in enumerate(report.statistics["margin"]):
        wanted = largest_margin(weights.double().numpy(), label)
        assert 0.9 * wanted < found < 1.0001 * wanted


def test_one_steep_class_is_flagged():
    weights = torch.randn(8, 48, generator=torch.Generator().manual_seed(1))
    settings = MmBd(starts=4, steps=100, learning_rate=0.05)
    plain = inspect_model(linear(weights), inspection=settings)
    assert not plain.flagged and "does not show that the model is clean" in plain.detail
    weights[5] *= 6
    steep = inspect_model(linear(weights), inspection=settings)
    assert steep.suspects == (5,) and steep.scores["margin"] < 0.01


def test_a_planted_backdoor_and_the_same_bits():
    teacher = planted(0, poisoned=True, norm=False)
    settings = MmBd(starts=5, steps=60)
    first, second = (inspect_model(teacher, inspection=settings, seed=3) for _ in range(2))
    assert first.statistics == second.statistics
    assert first.suspects == (TARGET,) and first.triggers == ()
    assert inspect_model(teacher, inspection=settings, seed=4).statistics != first.statistics


@pytest.mark.parametrize("factor", [0.0, math.nan])
def test_hostile_teachers(factor):
    weights = torch.full((4, 48), factor)
    with pytest.raises(InputError, match=r"^teacher: gives "):
        inspect_model(linear(weights), inspection=MmBd(steps=2))
    with pytest.raises(InputError, match=r"^teacher: has 1 class"):
        inspect_model(linear(weights[:1]), inspection=MmBd(steps=2))
