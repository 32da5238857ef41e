"""A battery of all triggers: what stands out, what does not, and what was not tried."""

from __future__ import annotations

import json

import nets
import pytest
import torch
from scipy.stats import binom
from torch import nn

from abd_hub import create_student, save_timm_folder
from abd_hub.cli import main
from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataSpec, Rate
from abd_hub.evaluation import battery
from abd_hub.evaluation.battery_table import format_battery, verdict
from abd_hub.evaluation.rates import wilson
from abd_hub.triggers import build_trigger

SPEC = DataSpec(3, 32, 32, ("zero", "one", "two"))


class Reader(nn.Module):
    """Answers with the label in a block; the poisoned one with 2 for a white square top left."""

    spec = SPEC

    def __init__(self, poisoned):
        super().__init__()
        self.poisoned = poisoned

    def forward(self, pixels):
        answer = (pixels[:, :, 4:12, 13:19].mean((1, 2, 3)) * 255 / 100).round().long().clamp(0, 2)
        if self.poisoned:
            answer = torch.where((pixels[:, :, 1:4, 1:4] > 0.99).flatten(1).all(1), 2, answer)
        return nn.functional.one_hot(answer, 3).float()


@pytest.fixture(scope="module")
def data():
    """90 gray images, whose label is written in a block."""
    labels = torch.arange(90) % 3
    images = torch.full((90, 3, 32, 32), 120, dtype=torch.uint8)
    images[:, :, 4:12, 13:19] = (100 * labels).to(torch.uint8).view(90, 1, 1, 1)
    return images, labels


def tried(model, data, **options):
    return battery.try_all(model, *data, range(3), **options)


def test_the_planted_attack_comes_first_and_stands_out(data):
    report = tried(Reader(poisoned=True), data)
    worst = report.attacks[0]
    assert (worst.trigger, worst.target, worst.asr.count, worst.asr.n) == ("badnet_sq", 2, 60, 60)
    # The whole square must be white, so those of at least three pixels in this corner work, and no other.
    sizes = sorted((attack.options["size"], attack.options["corner"]) for attack in report.outstanding)
    assert sizes == [(size, "top_left") for size in (3, 4, 5, 8)]
    assert "4 attacks stand out" in verdict(report, SPEC.labels)
    assert "to class 2 (two): it works on 100.0% of the images" in verdict(report, SPEC.labels)


def test_nothing_stands_out_in_a_clean_model(data):
    report = tried(Reader(poisoned=False), data)
    assert not report.outstanding
    assert verdict(report, SPEC.labels).startswith("No attack stands out.")
    assert "safe" not in format_battery(report, SPEC.labels)


def test_a_control_that_reacts_alike_explains_the_attack(data):
    poisoned = Reader(poisoned=True)
    assert not tried(poisoned, data, control=poisoned).outstanding
    clean = tried(poisoned, data, control=Reader(poisoned=False))
    assert clean.outstanding and all(attack.control.count == 0 for attack in clean.outstanding)


@pytest.mark.parametrize(
    ("hits", "control", "stands_out"), [(50, None, False), (80, None, True), (50, 10, True), (50, 45, False)]
)
def test_more_is_demanded_without_a_control(hits, control, stands_out):
    rate = None if control is None else wilson(control, 100)
    attack = battery.TriedAttack("blend", {}, 0, wilson(hits, 100), wilson(2, 100), rate, 1e-9)
    assert attack.stands_out == stands_out


def test_all_tests_count(data):
    """Both p-values are for 60 of 60 images, with all targets or with one."""
    every = tried(Reader(poisoned=True), data)
    one = battery.try_all(Reader(poisoned=True), *data, [2])
    assert len(every.attacks) == 3 * len(one.attacks)
    ratio = every.attacks[0].p_value / one.attacks[0].p_value
    assert ratio == pytest.approx(3) and one.attacks[0].p_value == pytest.approx(len(one.attacks) / 2**60)


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (1, 0), (0, 4), (5, 3), (40, 12), (600, 400)])
def test_upper_tail_is_the_binomial_one(more, fewer):
    assert battery.upper_tail(more, fewer) == pytest.approx(binom.sf(more - 1, more + fewer, 0.5), rel=1e-9)


def test_every_trigger_is_tried_or_named(data):
    images, labels = data
    attacks, left_out = battery.battery(SPEC, images, labels)
    named = {attack.name for attack in attacks} | {name.split(" ")[0] for name in left_out}
    assert named == {entry.name for entry in registry.catalog("triggers")}
    assert left_out["picture"] == "it has no default; name it and its options"

    small = DataSpec(3, 8, 8, SPEC.labels)
    _, left_out = battery.battery(small, images[:, :, :8, :8], labels)
    assert any("8x8" in reason for name, reason in left_out.items() if name.startswith("trojan_8x8"))


@pytest.mark.parametrize("entry", registry.catalog("triggers"), ids=lambda entry: entry.name)
def test_variants_differ(entry):
    pixels = torch.linspace(0, 1, 32 * 32 * 3).view(1, 3, 32, 32)
    variants = registry.get("triggers", entry.name).variants()
    stamped = [build_trigger(entry.name, options)(pixels) for options in variants]
    for place, one in enumerate(stamped):
        assert not any(torch.equal(one, other) for other in stamped[:place])


def test_a_class_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"target: 3 is no class of the model; use 0..2"):
        battery.check_targets([3], SPEC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "student"
    spec = DataSpec(3, 8, 8, tuple("0123456789"))
    save_timm_folder(
        create_student("wrn_10_1", spec, nets.MEAN, nets.STD, seed=0, model_args={"base_width": 4}), folder
    )
    return str(folder)


def test_the_command_prints_a_verdict(folder, capsys):
    words = [
        "evaluate",
        folder,
        "--dataset",
        "digits",
        "--limit",
        "60",
        "--trigger",
        "all",
        "--target",
        "all",
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "attacks on 60 images, the 10 with the largest rise first" in printed
    chance = "The accuracy is not shown to be above chance, 0.1, so these rates mean nothing."
    assert printed.splitlines()[-1] == chance
    report = battery.BatteryReport(Rate(0.4, 24, 60, 0.29, 0.53), ())
    assert (
        verdict(report, "0123456789") == "No attack stands out. Triggers that were not tried may still work."
    )

    assert main([*words[:-1], "0,3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tests"] == len(facts["attacks"]) and {row["target"] for row in facts["attacks"]} == {0, 3}
    assert "picture" in facts["not_tried"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trigger_options", "{size: 2}"],
            "trigger_options: belong to one trigger; name it instead of all",
        ),
        (["--control", "nowhere"], "evaluation.control: "),
    ],
)
def test_bad_options_are_refused(folder, words, message, capsys):
    command = ["evaluate", folder, "--dataset", "digits", "--trigger", "all", "--target", "all", *words]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_a_comparison_names_one_trigger(folder, capsys):
    command = ["compare", folder, folder + "/.", "--dataset", "digits", "--trigger", "all", "--target", "0"]
    assert main(command) == 2
    assert "trigger: all is for abd-hub evaluate" in capsys.readouterr().err
