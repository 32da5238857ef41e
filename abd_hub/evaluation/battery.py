"""Tries many attacks on a classifier whose trigger is unknown, and names those that stand out.

The battery takes every trigger in the variants that it names, at several sizes and places, with every target.
All targets share a pass, so the cost is one pass a variant over a bounded number of images.

A clean classifier also changes some answers when an image is damaged. So each attack is tested against the
same images without the trigger. Let b count the images, of other classes than the target, that get the target
only with the trigger, and c those that get it only without. Without an effect, b of b + c is binomial with
p = 1/2, and the p-value is its upper tail (McNemar's test, exact, one-sided). With many tests some p-values
are small by chance. So each one is multiplied by the number of tests (Bonferroni).

A small p-value alone is no backdoor, because with many images any small damage is significant. An attack
stands out where its rate also exceeds its base far enough. The base is the larger of two rates: the rate
without the trigger, and the rate of a control. A control takes the damage into account. Without one, the rate
must exceed its base by more than noise alone does in clean models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.findings import LEAST_EXCESS
from abd_hub.core.records import DataSpec, Rate
from abd_hub.data.mixed import MixedImages
from abd_hub.evaluation.attacks import Attack, check_inputs
from abd_hub.evaluation.counting import Answers, evaluate_answers
from abd_hub.evaluation.rates import wilson
from abd_hub.models.classifier import Classifier
from abd_hub.triggers import build_trigger

MOST_IMAGES = 1000
"""Images of a battery where no limit is set."""
LEVEL = 0.01
"""Level of all tests together."""
LEAST_EXCESS_ALONE = 0.75
"""Excess over the base from which an attack stands out without a control. Three clean ResNets take 62 to 64 %
of CIFAR-10 under noise for frogs."""


@dataclass(frozen=True)
class TriedAttack:
    """Holds the result of one attack of a battery."""

    trigger: str
    options: Mapping[str, Any]
    target: int
    asr: Rate
    """Share of the images of other classes that get the target once triggered."""
    clean: Rate
    """Share of the same images that get the target without the trigger."""
    control: Rate | None
    """Share of the same triggered images that get the target from the control; None without one."""
    p_value: float
    """One-sided, exact and multiplied by the number of tests, at most 1."""

    @property
    def base(self) -> float:
        """Rate that needs no backdoor: the larger one of clean images and control."""
        return max(self.clean.value, self.control.value if self.control else 0.0)

    @property
    def stands_out(self) -> bool:
        """Whether the attack works more often than damage and chance explain."""
        least = LEAST_EXCESS if self.control else LEAST_EXCESS_ALONE
        return self.p_value < LEVEL and self.asr.value - self.base >= least


@dataclass(frozen=True)
class BatteryReport:
    """Holds the results of a battery, the worst attack first."""

    accuracy: Rate
    attacks: tuple[TriedAttack, ...]
    not_tried: Mapping[str, str] = field(default_factory=dict)
    """Gives for each trigger that was left out the reason."""

    @property
    def outstanding(self) -> tuple[TriedAttack, ...]:
        """The attacks that stand out."""
        return tuple(attack for attack in self.attacks if attack.stands_out)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields in JSON types, and for each attack whether it stands out."""
        rows = [{**dataclasses.asdict(attack), "stands_out": attack.stands_out} for attack in self.attacks]
        return {
            "accuracy": dataclasses.asdict(self.accuracy),
            "tests": len(self.attacks),
            "level": LEVEL,
            "least_excess": LEAST_EXCESS,
            "least_excess_without_control": LEAST_EXCESS_ALONE,
            "attacks": rows,
            "not_tried": dict(self.not_tried),
        }


def battery(
    spec: DataSpec,
    images: Tensor | MixedImages,
    labels: Tensor,
    on: Literal["image", "input"] = "image",
) -> tuple[list[Attack], dict[str, str]]:
    """Builds every trigger in all its variants.

    Args:
        spec: of the classifier.
        images: (n, C, H, W) uint8 or ``MixedImages``, which the triggers must fit.
        labels: their labels, (n,) integers.
        on: place of the triggers, see ``Attack``.

    Returns:
        Attacks with a target of no meaning, and the triggers that were left out, with reasons.

    Raises:
        InputError: the data do not fit the classifier.
    """
    check_inputs(spec, images, labels)
    target = _some_target(labels)
    attacks: list[Attack] = []
    left_out: dict[str, str] = {}

    for entry in registry.catalog("triggers"):
        variants = _variants(entry.name)
        if not variants:
            left_out[entry.name] = "it has no default; name it and its options"
        for options in variants:
            attack = Attack(entry.name, target, build_trigger(entry.name, options), options, on=on)
            try:
                check_inputs(spec, images, labels, [attack])
            except InputError as error:
                left_out[worded(entry.name, options)] = str(error)
            else:
                attacks.append(attack)
    return attacks, left_out


def check_targets(targets: Sequence[int] | None, spec: DataSpec) -> Sequence[int]:
    """Returns the targets, or every class for None.

    Raises:
        InputError: the classifier has no such class.
    """
    if targets is None:
        return range(spec.num_classes)
    for target in targets:
        if not 0 <= target < spec.num_classes:
            raise InputError(f"target: {target} is no class of the model; use 0..{spec.num_classes - 1}")
    return targets


def try_all(
    classifier: Classifier,
    images: Tensor | MixedImages,
    labels: Tensor,
    targets: Sequence[int],
    *,
    control: Classifier | None = None,
    on: Literal["image", "input"] = "image",
    batch_size: int = 512,
    progress: bool = False,
) -> BatteryReport:
    """Runs a battery.

    Args:
        classifier: to measure, on its device.
        images: (n, C, H, W) uint8 or ``MixedImages``.
        labels: their labels, (n,) integers.
        targets: classes to which a backdoor may lead.
        control: a model without the backdoor, with the same labels.
        on: place of the triggers, see ``Attack``.
        batch_size: images in a forward pass.
        progress: whether to show a bar.

    Raises:
        InputError: data and classifier do not fit, see ``evaluate``.
    """
    attacks, left_out = battery(classifier.spec, images, labels, on)
    if control is not None:  # before any work
        check_inputs(control.spec, images, labels, attacks)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    report, answers = evaluate_answers(classifier, images, labels, attacks, **options)
    other = evaluate_answers(control, images, labels, attacks, **options)[1] if control else None

    tried = _all_tried(attacks, targets, labels.cpu(), answers, other)
    return BatteryReport(report.accuracy, tried, left_out)


def _all_tried(
    attacks: Sequence[Attack],
    targets: Sequence[int],
    labels: Tensor,
    answers: Answers,
    control: Answers | None,
) -> tuple[TriedAttack, ...]:
    """Returns all attacks with all targets, the worst first."""
    tests = len(attacks) * len(targets)
    tried = [
        _tried(attack, target, labels, _Rows(answers, control, place), tests)
        for place, attack in enumerate(attacks)
        for target in targets
        if bool((labels != target).any())
    ]
    tried.sort(key=lambda one: (not one.stands_out, one.base - one.asr.value))
    return tuple(tried)


@dataclass(frozen=True)
class _Rows:
    """Gives the answers that belong to one attack."""

    answers: Answers
    control: Answers | None
    place: int


def _tried(attack: Attack, target: int, labels: Tensor, rows: _Rows, tests: int) -> TriedAttack:
    others = labels != target
    n = int(others.sum())
    hit = (rows.answers.triggered[rows.place] == target)[others]
    before = (rows.answers.clean == target)[others]
    control = None
    if rows.control is not None:
        control = wilson(int((rows.control.triggered[rows.place] == target)[others].sum()), n)

    chance = upper_tail(int((hit & ~before).sum()), int((before & ~hit).sum()))
    return TriedAttack(
        attack.name,
        dict(attack.options),
        target,
        wilson(int(hit.sum()), n),
        wilson(int(before.sum()), n),
        control,
        min(1.0, tests * chance),
    )


def upper_tail(more: int, fewer: int) -> float:
    """Returns P(X >= more) for X binomial with more + fewer trials and p = 1/2; 1 for no trial."""
    trials = more + fewer
    ways, tail = math.comb(trials, more), 0
    for count in range(more, trials + 1):
        tail += ways
        ways = ways * (trials - count) // (count + 1)
    return float(tail / 2**trials)


def _variants(name: str) -> tuple[dict[str, Any], ...]:
    """Returns the options that the trigger names, or its defaults where it names none."""
    plugin = registry.get("triggers", name)
    named = getattr(plugin, "variants", None)
    if named is not None:
        found: tuple[dict[str, Any], ...] = named()
        return found
    try:
        build_trigger(name)
    except InputError:
        return ()
    return ({},)


def _some_target(labels: Tensor) -> int:
    """Returns a class that is not the label of every image."""
    first = int(labels[0])
    return first if bool((labels != first).any()) else int(first == 0)


def worded(name: str, options: Mapping[str, Any]) -> str:
    """Returns a trigger with its options, as they are typed in YAML."""
    words = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{name} {{{words}}}" if words else name
