"""A student that diverges goes back to its last good state and learns on at half the rate."""

import json
import math
import os
import signal

import nets
import pytest
import torch

from abd_hub import Ood, Trainer, TrainerOptions
from abd_hub.core.errors import Interrupted
from abd_hub.training.recovery import LEAST, MOST, RISE

METHOD = Ood(
    rounds=20,
    batch_size=8,
    student_steps=2,
    patches=32,
    crop_padding=0,
    cutmix=0,
    optimizer="sgd",
    learning_rate=0.02,
)
HURT = 13
"""The round after which the weights are spoiled, as by a step that was too large."""


def spoil(done, student):
    """Is a watch, which is called between the rounds."""
    if done == HURT:
        with torch.no_grad():
            for weight in student.parameters():
                weight.mul_(30 if weight.ndim > 1 else 1)
    return {}


def make(folder, watch=spoil):
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    options = TrainerOptions(progress=False, checkpoint_every=0, log_every=1)
    folder.mkdir(exist_ok=True)
    return Trainer(teacher, nets.wrn(seed=1, base_width=4), METHOD, [], options, folder=folder, watch=watch)


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery") / "whole"
    return folder, make(folder).fit()


def test_it_goes_back_and_learns_on_at_half_the_rate(spoiled, tmp_path, caplog):
    found = rows(spoiled[0])
    loss = {row["round"]: row["student_loss"] for row in found}
    best = min(loss[done] for done in range(1, HURT + 1))
    assert loss[HURT + 1] > RISE * best, "it did diverge"
    assert [(row["round"], row["rate_scale"]) for row in found if "rate_scale" in row] == [(HURT + 1, 0.5)]
    assert all(loss[done] < RISE * best for done in range(HURT + 2, METHOD.rounds + 1))

    make(tmp_path / "healthy", watch=None).fit()
    healthy = rows(tmp_path / "healthy")
    assert [row["student_loss"] for row in healthy[:HURT]] == [row["student_loss"] for row in found[:HURT]]
    rates = [(a["learning_rate"], b["learning_rate"]) for a, b in zip(found, healthy, strict=True)]
    assert all(one == other for one, other in rates[: HURT + 1])
    assert all(one == other / 2 for one, other in rates[HURT + 1 :])
    assert not caplog.records, "a healthy run is left alone"


@pytest.mark.parametrize("stop", [HURT - 1, HURT, HURT + 1])
def test_a_resumed_run_goes_back_to_the_same_bits(spoiled, tmp_path, stop):
    first = make(tmp_path / "parts")
    original = first._round

    def interrupted(index):
        original(index)
        if index + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    first._round = interrupted
    with pytest.raises(Interrupted):
        first.fit()
    again = make(tmp_path / "parts").fit(resume=True)
    for one, other in zip(again.state_dict().values(), spoiled[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_counts_and_there_is_an_end(tmp_path):
    recovery = make(tmp_path / "run").recovery
    assert not recovery.goes_back(0, {"student_loss": math.nan}), "nothing good yet"
    for done in range(LEAST):
        assert not recovery.goes_back(done, {"student_loss": 1.0})
    bad = [recovery.goes_back(done, {"student_loss": math.nan}) for done in range(MOST + 1)]
    assert bad == [True] * MOST + [False]
    assert recovery.optimizer.scale == 0.5**MOST
    assert not recovery.goes_back(99, {"other": 1.0})
