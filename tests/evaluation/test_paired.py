"""McNemar's test against scipy's distributions, an enumeration, and published tables."""

import itertools
import math

import pytest
import torch
from scipy.stats import binomtest, chi2

from abd_hub.core.errors import InputError
from abd_hub.evaluation.paired import CHI_SQUARE, EXACT, compare_answers, mcnemar


def reference(first_only, second_only):
    """The p-value by scipy's binomial test below 25 pairs, by scipy's chi-square distribution above."""
    pairs = first_only + second_only
    if pairs == 0:
        return 1.0
    if pairs < 25:
        return binomtest(first_only, pairs, 0.5).pvalue
    corrected = max(abs(first_only - second_only) - 1, 0)
    return chi2.sf(corrected**2 / pairs, 1)


def test_against_scipy_on_every_small_table():
    for first_only, second_only in itertools.product(range(31), repeat=2):
        found = mcnemar(first_only, second_only, 100)
        assert math.isclose(found.p_value, reference(first_only, second_only), rel_tol=1e-9)
        assert found.method == (EXACT if first_only + second_only < 25 else CHI_SQUARE)
        assert (found.n, found.first_only, found.second_only) == (100, first_only, second_only)
        assert mcnemar(second_only, first_only, 100).p_value == found.p_value


@pytest.mark.parametrize(("first_only", "second_only"), [(0, 1), (3, 3), (0, 8), (2, 9)])
def test_the_exact_form_counts_all_outcomes(first_only, second_only):
    """Each pair falls on either side like a coin: all 2^n series that are at least as far from even."""
    pairs = first_only + second_only
    far = abs(first_only - second_only)
    as_far = sum(abs(pairs - 2 * sum(tossed)) >= far for tossed in itertools.product((0, 1), repeat=pairs))
    assert mcnemar(first_only, second_only, pairs).p_value == as_far / 2**pairs


def test_published_tables():
    # Severe colds of 1,319 schoolchildren at the ages of 12 and 14 (Bland, An Introduction to Medical
    # Statistics): 144 at 12 only, 256 at 14 only, chi-square 30.8 with the correction.
    colds = mcnemar(144, 256, 1319)
    assert (round(colds.statistic, 1), colds.method) == (30.8, CHI_SQUARE)
    assert colds.p_value < 0.001
    # 6 and 16 discordant pairs: p = 0.052 exactly (Fagerland,
    # Lydersen and Laake, BMC Medical Research Methodology 13, 2013).
    pairs = mcnemar(6, 16, 161)
    assert (round(pairs.p_value, 4), pairs.method, pairs.statistic) == (0.0525, EXACT, None)


def test_the_tail_of_large_samples_does_not_vanish():
    assert math.isclose(mcnemar(5000, 4000, 10_000).p_value, reference(5000, 4000), rel_tol=1e-9)
    assert 0 < mcnemar(1000, 0, 10_000).p_value < 1e-200


def test_answers_are_compared_image_by_image():
    first = torch.tensor([True, True, True, False, False, True])
    second = torch.tensor([True, False, False, True, False, False])
    found = compare_answers(first, second)
    assert (found.n, found.first_only, found.second_only) == (6, 3, 1)
    assert found.p_value == 10 / 16
    assert compare_answers(first, first).p_value == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.ones(3).bool(), torch.ones(4).bool()),
        (torch.ones(3), torch.ones(3)),
        (torch.ones(3).bool(), torch.ones(3).long()),
        (torch.ones(3, 1).bool(), torch.ones(3, 1).bool()),
    ],
)
def test_what_is_no_pair_of_answers_is_refused(first, second):
    with pytest.raises(InputError, match="bool"):
        compare_answers(first, second)


@pytest.mark.parametrize("counts", [(-1, 2, 5), (3, 3, 5)])
def test_counts_that_cannot_be(counts):
    with pytest.raises(InputError, match="discordant"):
        mcnemar(*counts)
