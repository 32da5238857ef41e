"""The agreement of student and teacher: its numbers, its cost, and that it changes nothing."""

import copy
import dataclasses

import nets
import pytest
import torch
from plugin_rows import QUIET, ROUNDS, make, names

from abd_hub.core.records import Agreement, Rate
from abd_hub.learning.image_bank import DeviceImageBank
from abd_hub.runs.agreement import held_back_patches
from abd_hub.training import agreement
from abd_hub.training.agreement import AgreementMeter

PATCHES = (nets.pixels(30, seed=7) * 255).to(torch.uint8)


def measured(synthesizer, monkeypatch):
    """A trainer that compares after every round."""
    monkeypatch.setattr(agreement, "FEWEST", 1)
    monkeypatch.setattr(agreement, "SHARE", 1.0)
    trainer = make(synthesizer, [])
    options = dataclasses.replace(QUIET, log_every=1)
    trainer.agreement = AgreementMeter(trainer.networks, trainer.method, options, PATCHES)
    return trainer


def test_every_method_gives_the_same_student_and_the_same_state(monkeypatch):
    for name in names("synthesizers"):
        plain, compared = make(name, []), measured(name, monkeypatch)
        plain.fit()
        compared.fit()
        left, right = plain.state_dict(), compared.state_dict()
        assert left.pop("agreement") == {}
        kinds = {"patches"} if name == "ood" else {"patches", "unseen"}
        assert set(right.pop("agreement")) == kinds, name
        for part in ("student", "synthesizer", "optimizer", "sums"):
            assert same(left[part], right[part]), (name, part)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_the_shares_are_those_of_the_classes(monkeypatch):
    trainer = measured("zskt", monkeypatch)
    trainer.fit()
    with torch.no_grad():
        shown = PATCHES.float() / 255
        classes = [net(shown).argmax(dim=1) for net in (trainer.teacher, trainer.student)]
    counted = trainer.agreement.latest["patches"]
    assert (counted.same, counted.n) == (int((classes[0] == classes[1]).sum()), 30)
    shares = [[float((chosen == label).double().mean()) for label in range(5)] for chosen in classes]
    assert counted.chance == pytest.approx(sum(a * b for a, b in zip(*shares, strict=True)))


def test_a_copy_of_the_teacher_agrees_everywhere(monkeypatch):
    trainer = measured("zskt", monkeypatch)
    networks = dataclasses.replace(trainer.networks, student=copy.deepcopy(trainer.teacher))
    meter = AgreementMeter(networks, trainer.method, QUIET, PATCHES)
    figures = meter.figures(ROUNDS)
    assert figures["agreement_patches"] == 1.0 > figures["agreement_patches_by_chance"]


def test_a_line_compares_one_image_for_a_hundred_of_the_steps_and_the_last_line_all():
    trainer = make("zskt", [])
    method = dataclasses.replace(trainer.method, rounds=100, batch_size=64, student_steps=10)
    options = dataclasses.replace(QUIET, log_every=20)
    meter = AgreementMeter(trainer.networks, method, options, torch.empty(1000, 3, 8, 8))
    assert [meter._count(done) for done in (19, 20, 21, 40, 100)] == [0, 128, 0, 128, 1000]
    few = AgreementMeter(
        trainer.networks, dataclasses.replace(method, student_steps=1), options, meter.patches
    )
    assert [few._count(done) for done in (20, 100)] == [0, 1000], "13 images would say too little"


def test_a_resumed_run_keeps_the_last_counts(monkeypatch):
    first, second = measured("fast", monkeypatch), measured("fast", monkeypatch)
    first.fit()
    second.load_state_dict(first.state_dict())
    assert second.agreement.latest == first.agreement.latest != {}
    older = first.state_dict()
    del older["agreement"]
    second.load_state_dict(older)
    assert second.agreement.latest == {}


def test_the_newest_images_of_a_bank_are_those_added_last():
    bank = DeviceImageBank(nets.SPEC, 5, torch.device("cpu"))
    levels = torch.arange(7).float()[:, None, None, None].expand(7, 3, 8, 8) / 255
    bank.add(levels[:4], torch.zeros(4, dtype=torch.int64))
    bank.add(levels[4:], torch.zeros(3, dtype=torch.int64))
    assert [round(float(image[0, 0, 0]) * 255) for image in bank.newest(3)] == [4, 5, 6]
    assert len(bank.newest(9)) == 5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_patches_are_held_back_for_gray_and_color(channels):
    spec = dataclasses.replace(nets.SPEC, channels=channels)
    patches = held_back_patches(spec, torch.device("cpu"))
    assert patches.shape == (0 if channels == 4 else 1000, channels, 8, 8)
    assert torch.equal(patches, held_back_patches(spec, torch.device("cpu")))


@pytest.mark.parametrize(
    ("value", "chance", "ends"),
    [
        (0.15, 0.11, "on 15% of 100 held-back patches of photographs (11% by chance): it has learned next"),
        (0.31, 0.11, "(11% by chance): it is probably not usable yet."),
        (0.9, 0.89, "it has learned next to nothing."),
        (0.84, 0.11, "(11% by chance)."),
        (1.0, 1.0, "(100% by chance), but both always give one class."),
    ],
)
def test_the_sentence_says_what_the_agreement_is_worth(value, chance, ends):
    found = Agreement("patches", Rate(value, round(100 * value), 100, 0.0, 1.0), chance)
    assert ends in found.sentence
