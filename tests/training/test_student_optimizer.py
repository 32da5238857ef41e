"""The student's learning rate, round by round."""

import nets
import pytest
from accelerate import Accelerator

from abd_hub import Real
from abd_hub.training.student_optimizer import StudentOptimizer


def rates(**settings):
    method = Real(rounds=10, learning_rate=0.4, **settings)
    optimizer = StudentOptimizer(method, nets.wrn(base_width=4), [], Accelerator(cpu=True))
    found = []
    for index in range(method.rounds):
        optimizer.begin_round(index)
        found.append(optimizer.rate)
    return found


def test_a_warmup_rises_in_a_line_and_leads_into_the_cosine():
    """The middle of round k is at k + 1/2; the rise takes 4 rounds, so the fall takes 6."""
    found = rates(learning_rate_warmup=0.4)
    assert found[:4] == pytest.approx([0.05, 0.15, 0.25, 0.35])
    assert found[4] == max(found) and found[4] < 0.4
    assert found[6] == pytest.approx(0.4 * 0.5 * (1 + 0.2588190451025207))  # cos 75 degrees
    assert found[4:] == sorted(found[4:], reverse=True) and found[9] > 0


def test_a_warmup_leaves_the_drops():
    plain, warm = (
        rates(learning_rate_drops=(0.5,)),
        rates(learning_rate_drops=(0.5,), learning_rate_warmup=0.2),
    )
    assert warm[:2] == pytest.approx([0.1, 0.3])
    assert warm[2:] == plain[2:] == pytest.approx([0.4] * 3 + [0.04] * 5)
