"""Modes of a network that hold inside a block of code."""

import nets
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from abd_hub.learning.modes import running_statistics_kept


class Functional(nn.Module):
    """Calls a function of dropout, as networks of timm do."""

    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        return self.drop(x, 0.5, self.training)


@pytest.mark.parametrize(
    "network",
    [
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        DropPath(0.5),
        *(Functional(drop) for drop in (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout)),
    ],
    ids=lambda network: f"{type(network).__name__} {getattr(network, 'drop', F.dropout).__name__}",
)
def test_no_value_is_dropped_while_running_statistics_are_kept(network):
    network.train()
    images = nets.pixels(8)
    with running_statistics_kept(network):
        assert torch.equal(network(images), images)
    assert not torch.equal(network(images), images)
    assert network.training


def test_a_student_with_dropout_answers_the_same_twice():
    student, images = nets.wrn(drop_rate=0.5).train(), nets.pixels(8, dtype=torch.float32)
    with running_statistics_kept(student):
        assert torch.equal(student(images), student(images))
    assert not torch.equal(student(images), student(images))
