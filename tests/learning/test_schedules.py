"""Learning-rate schedules against their definitions."""

import itertools
import math

import pytest

from abd_hub.learning.schedules import cosine, stepped, warmup_cosine


def test_stepped_falls_to_a_tenth_at_each_share():
    found = [stepped(0.1, index, 10, (0.2, 0.4)) for index in range(10)]
    assert found == pytest.approx([0.1] * 2 + [0.01] * 2 + [0.001] * 6)
    assert stepped(0.1, 9, 10, ()) == 0.1


def test_cosine_is_half_in_the_middle_and_falls():
    found = [cosine(2.0, index, 8) for index in range(9)]
    assert found[0] == 2.0
    assert found[4] == pytest.approx(1.0)
    assert found[8] == pytest.approx(0.0, abs=1e-15)
    assert all(a > b for a, b in itertools.pairwise(found))
    assert found[2] == pytest.approx(1 + math.cos(math.pi / 4))


def test_warmup_rises_in_a_line_and_meets_the_cosine():
    found = [warmup_cosine(1.0, done, 10, 0.2) for done in range(11)]
    assert found[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert found[6] == pytest.approx(0.5)
    assert warmup_cosine(1.0, 3, 10, 0.0) == cosine(1.0, 3, 10)
