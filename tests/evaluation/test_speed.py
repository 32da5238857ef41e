"""How many images a classifier takes in a second."""

import pytest
from nets import SPEC

from abd_hub import create_student
from abd_hub.evaluation import speed


@pytest.mark.parametrize(("one", "count"), [(0.0625, 4), (2.0, 1), (0.0001, speed.MOST)])
def test_a_slow_network_gets_fewer_images(one, count):
    passes = []

    def passed(number):
        passes.append(number)
        slow = 5 * one if len(passes) in (1, 4) else 0.0  # the first pass, and a moment of a busy machine
        return number * one + slow

    assert speed._rate(passed) == pytest.approx(1 / one)
    assert passes == [1, 1, count, count, count, count]


def test_a_speed_has_three_digits_and_changes_nothing():
    network = create_student("wrn_10_1", SPEC, (0.5,) * 3, (0.5,) * 3, seed=0, model_args={"base_width": 4})
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (found,) = speed.speeds(student=network).values()
    assert found > 0 and found == float(f"{found:.3g}") and network.training
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
