"""Wilson's interval solves its equation, covers 95 percent and gives published values."""

from __future__ import annotations

import math

import pytest
import torch

from abd_hub.core.errors import InputError
from abd_hub.core.seeding import generator
from abd_hub.evaluation.rates import wilson


@pytest.mark.parametrize("n", [1, 2, 10, 37, 10_000])
def test_wilson_solves_its_equation(n):
    """The bounds are the p with |count/n - p| = z sqrt(p (1 - p) / n): checked as roots, not by formula."""
    z = 1.959963984540054
    for count in {0, 1, n // 3, n // 2, n - 1, n}:
        rate = wilson(count, n)
        assert (rate.count, rate.n, rate.value) == (count, n, count / n)
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        for bound in (rate.low, rate.high):
            assert math.isclose((count / n - bound) ** 2, z * z * bound * (1 - bound) / n, abs_tol=1e-14)


def wald(count, n):
    """The interval of the first pages of textbooks, the one not to use."""
    share = count / n
    reach = 1.959963984540054 * math.sqrt(share * (1 - share) / n)
    return share - reach, share + reach


def score(count, n):
    rate = wilson(count, n)
    return rate.low, rate.high


def coverage(interval, n, share):
    """The probability, summed up exactly, that the interval of a binomial count holds ``share``."""
    total = 0.0
    for count in range(n + 1):
        low, high = interval(count, n)
        if low <= share <= high:
            total += math.comb(n, count) * share**count * (1 - share) ** (n - count)
    return total


SIZES, SHARES = (5, 10, 20, 50, 100, 200), [index / 200 for index in range(1, 200)]


def covers(interval):
    found = [coverage(interval, n, share) for n in SIZES for share in SHARES]
    return 0.93 <= sum(found) / len(found) <= 0.97 and min(found) >= 0.83


def test_wilson_covers_95_percent_and_wald_does_not():
    assert covers(score)
    assert not covers(wald)


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (539, 0.95), (486, 0.01), (10_000, 0.1)])
def test_wilson_covers_in_a_simulation_as_the_sum_says(n, share):
    draws = 4000
    seen = torch.zeros(draws, dtype=torch.int64)
    random = generator(0, "coverage", n)
    for start in range(0, draws, 500):
        seen[start : start + 500] = (torch.rand(500, n, generator=random) < share).sum(1)
    held = [low <= share <= high for low, high in (score(int(count), n) for count in seen)]
    exact = coverage(score, n, share) if n < 1000 else 0.95
    # Four standard deviations of the simulation; at n = 10,000 the exact figure is within 0.005 of 0.95.
    assert abs(sum(held) / draws - exact) < 4 * math.sqrt(0.05 * 0.95 / draws) + (0.005 if n >= 1000 else 0)


def test_wilson_against_published_values():
    none, every = wilson(0, 10), wilson(10, 10)
    assert none.low == 0.0 and every.high == 1.0
    assert round(none.high, 4) == 0.2775 and round(every.low, 4) == 0.7225
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for count, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ]:
        rate = wilson(count, n)
        assert (round(rate.low, 4), round(rate.high, 4)) == (low, high)
    for count, n in [(0, 0), (-1, 5), (6, 5)]:
        with pytest.raises(InputError):
            wilson(count, n)
