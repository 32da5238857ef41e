"""A teacher whose answers are no numbers ends a run at once, in one line."""

from __future__ import annotations

import nets
import plugin_rows
import pytest
import torch
from torch import nn

from abd_hub import Classifier, InputError, ShufflingVaccine, Trainer, TrainerOptions, Zskt

QUIET = TrainerOptions(progress=False, checkpoint_every=0)


class Overflowing(nn.Module):
    """Finite for a black image alone."""

    def __init__(self):
        super().__init__()
        self.net = nets.randomized(nets.PlainNet())

    def forward(self, x):
        return self.net(x) + (x * 1e30 * 1e30).sum()


def teacher():
    return Classifier(Overflowing(), nets.SPEC, (0, 0, 0), (1, 1, 1)).freeze()


@pytest.mark.parametrize("method", plugin_rows.names("synthesizers"))
def test_every_method_refuses_it_before_the_first_step(method, tmp_path):
    trainer = plugin_rows.make(method, [], torch.float32)
    answers = trainer.teacher.model.forward
    trainer.teacher.model.forward = lambda x: answers(x) + float("nan")
    before = [weight.detach().clone() for weight in trainer.student.parameters()]
    with pytest.raises(InputError, match=r"^teacher: gives logits that are not finite") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, trainer.student.parameters(), before)), "no step was made"


def test_the_vaccine_refuses_it_before_the_run():
    with pytest.raises(InputError, match=r"^teacher: its shuffled copies give logits that are not finite"):
        ShufflingVaccine(check=False, layers=1).build(teacher(), 0)


def test_it_is_named_without_a_file():
    method = Zskt(rounds=2, batch_size=4, student_steps=1, z_dim=4, attention_weight=0)
    with pytest.raises(InputError, match=r"^teacher: gives logits"):
        Trainer(teacher(), nets.wrn(base_width=4), method, [], QUIET).fit()
