from __future__ import annotations

import dataclasses

import nets
import pytest
import torch
from missing import PUBLISHED, published
from torch import nn

from abd_hub.core.errors import InputError
from abd_hub.core.records import AttackedClass, ClassReport, DataRef, DataSpec, SplitReport
from abd_hub.data.images import load_images
from abd_hub.evaluation.attacks import Attack
from abd_hub.evaluation.counting import evaluate, evaluate_answers
from abd_hub.evaluation.rates import wilson, with_control
from abd_hub.evaluation.tables import format_classes, format_reports, format_table
from abd_hub.triggers import build_trigger

WATERMARK = {"file": str(PUBLISHED / "triggers" / "trojan_wm.png"), "mode": "add"}
SPEC = DataSpec(3, 4, 4, ("zero", "one", "two"))


class Reader(nn.Module):
    """Answers with the label written into the first pixel (0, 100, 200), or 2 for a white last pixel."""

    def __init__(self):
        super().__init__()
        self.spec = SPEC
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Dropout().eval()
        self.calls = []

    def forward(self, pixels):
        self.calls.append((len(pixels), self.training, torch.is_inference_mode_enabled()))
        self.norm(pixels)
        written = (pixels[:, 0, 0, 0] * 255 / 100).round().long()
        answer = torch.where(pixels[:, 0, -1, -1] > 0.99, 2, written)
        return nn.functional.one_hot(answer, 3).float()


def white(pixels):
    """Whitens the last pixel of images whose second pixel is dark."""
    result = pixels.clone()
    result[:, :, -1, -1] = torch.where(pixels[:, :, 0, 1] < 0.5, 1.0, pixels[:, :, -1, -1])
    return result


def twelve():
    """Twelve images: (true label, written label, whether the trigger fails on it)."""
    cases = [(0, 0, 0)] * 3 + [(0, 1, 1)] + [(1, 1, 0)] * 2 + [(1, 1, 1)] * 2 + [(1, 2, 1)]
    cases += [(2, 2, 0)] * 2 + [(2, 0, 1)]
    images = torch.zeros(12, 3, 4, 4, dtype=torch.uint8)
    for index, (_, written, fails) in enumerate(cases):
        images[index, :, 0, 0] = 100 * written
        images[index, :, 0, 1] = 255 * fails
    return images, torch.tensor([case[0] for case in cases])


def attacks():
    return [Attack("white", 2, white, {"size": 1}), Attack("none", 0, lambda pixels: pixels)]


@pytest.mark.parametrize("batch_size", [1, 5, 12, 512])
def test_counts_on_twelve_images_made_by_hand(batch_size):
    images, labels = twelve()
    report = evaluate(Reader(), images, labels, attacks(), batch_size=batch_size)
    # Right when clean: 3 of the zeros, 4 of the ones, 2 of the twos.
    assert (report.accuracy.count, report.accuracy.n) == (9, 12)
    # Four zeros, five ones and three twos; four images read as 0, five as 1 and three as 2.
    assert (report.classes, report.largest_class, report.largest_answer) == (3, 5 / 12, 5 / 12)
    to_two, to_zero = report.triggers
    # Nine images are not twos. Five take the trigger; of the four others one reads as 2 anyway,
    # two keep their true label 1, and one keeps a wrong one.
    assert (to_two.trigger, to_two.target, to_two.options) == ("white", 2, {"size": 1})
    assert (to_two.asr.count, to_two.asr.n) == (6, 9)
    assert (to_two.robust_accuracy.count, to_two.robust_accuracy.n) == (2, 9)
    # Without a trigger, of the eight that are not zeros: one reads as 0, six are right.
    assert (to_zero.asr.count, to_zero.asr.n) == (1, 8)
    assert (to_zero.robust_accuracy.count, to_zero.robust_accuracy.n) == (6, 8)


@pytest.mark.parametrize("batch_size", [1, 5, 512])
def test_one_answer_to_all_images_shows(batch_size):
    images, labels = twelve()
    images[:, :, 0, 0] = 200
    report = evaluate(Reader(), images, labels, batch_size=batch_size)
    assert (report.largest_class, report.largest_answer, report.accuracy.count) == (5 / 12, 1.0, 3)


def test_one_pass_in_eval_and_inference_mode_and_modes_come_back():
    images, labels = twelve()
    classifier = Reader().train()
    classifier.frozen.eval()
    statistics = classifier.norm.running_mean.clone()
    evaluate(classifier, images, labels, attacks(), batch_size=6)
    assert classifier.calls == [(6, False, True)] * 6
    assert classifier.training and classifier.norm.training and not classifier.frozen.training
    assert torch.equal(classifier.norm.running_mean, statistics)


@pytest.mark.parametrize("processes", [2, 5, 20])
def test_shards_add_up_to_the_whole(processes):
    images, labels = twelve()
    parts = []

    def keep(counts):
        parts.append(counts.clone())
        return torch.ones_like(counts)

    for rank in range(processes):
        options = {"batch_size": 4, "shard": (rank, processes)}
        with pytest.raises(InputError, match="not finite"):  # the counter of broken answers was set to 1
            evaluate(Reader(), images, labels, attacks(), reduce=keep, **options)
    total = sum(parts)
    assert total.dtype == torch.int64
    whole = evaluate(Reader(), images, labels, attacks())
    last = evaluate(Reader(), images, labels, attacks(), shard=(0, processes), reduce=lambda counts: total)
    assert last == whole


def test_each_class_on_the_twelve_images():
    """Every count is the one that the list of cases in ``twelve`` gives by hand."""
    images, labels = twelve()
    report = evaluate(Reader(), images, labels, attacks(), batch_size=5, per_class=True)
    none = AttackedClass(0, 0, 0)
    assert report.per_class == (
        # Three take the trigger; the fourth reads as 1. "none" leads to zero itself.
        ClassReport(0, "zero", 4, 3, (AttackedClass(4, 3, 0), none)),
        # Two take the trigger and one reads as 2 anyway; two keep their label. None reads as 0.
        ClassReport(1, "one", 5, 4, (AttackedClass(5, 3, 2), AttackedClass(5, 0, 4))),
        # "white" leads to two itself. One of the three reads as 0.
        ClassReport(2, "two", 3, 2, (none, AttackedClass(3, 1, 2))),
    )
    assert dataclasses.replace(report, per_class=None) == evaluate(Reader(), images, labels, attacks())
    assert sum(row.correct for row in report.per_class) == report.accuracy.count
    assert sum(row.n for row in report.per_class) == report.accuracy.n
    for place, found in enumerate(report.triggers):
        rows = [row.attacks[place] for row in report.per_class]
        total = [sum(getattr(row, name) for row in rows) for name in ("n", "hits", "robust")]
        assert total == [found.asr.n, found.asr.count, found.robust_accuracy.count]


CLEAN_ANSWERS = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 0]
WHITE_ANSWERS = [2, 2, 2, 1, 2, 2, 1, 1, 2, 2, 2, 0]


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_answer_to_each_image(batch_size):
    images, labels = twelve()
    report, answers = evaluate_answers(Reader(), images, labels, attacks(), batch_size=batch_size)
    assert report == evaluate(Reader(), images, labels, attacks())
    assert answers.clean.tolist() == CLEAN_ANSWERS and answers.clean.dtype == torch.int64
    assert [given.tolist() for given in answers.triggered] == [WHITE_ANSWERS, CLEAN_ANSWERS]


@pytest.mark.parametrize("processes", [2, 5, 20])
def test_answers_of_shards_are_complete_and_in_order(processes):
    images, labels = twelve()
    counts = []
    evaluate(Reader(), images, labels, attacks(), reduce=lambda found: counts.append(found.clone()) or found)
    parts = []

    def keep(found):
        if found.shape == counts[0].shape:
            return counts[0]
        parts.append(found.clone())
        return sum(parts)

    for rank in range(processes):
        options = {"batch_size": 2, "shard": (rank, processes), "reduce": keep}
        _, answers = evaluate_answers(Reader(), images, labels, attacks(), **options)
    assert answers.clean.tolist() == CLEAN_ANSWERS
    assert [given.tolist() for given in answers.triggered] == [WHITE_ANSWERS, CLEAN_ANSWERS]


def five_digits():
    images = (nets.pixels(23, dtype=torch.float32) * 255).to(torch.uint8)
    return images, torch.arange(23) % 5


def test_targets_of_one_trigger_share_a_forward_pass():
    images, labels = five_digits()
    classifier = nets.randomized(nets.wrn(base_width=4))
    calls = []
    classifier.register_forward_hook(lambda *_: calls.append(1))
    options = {"size": 2}
    # In no order, and from triggers that are equal but not the same.
    wanted = [("badnet_sq", 3), ("badnet_grid", 0), ("badnet_sq", 0), ("badnet_grid", 4), ("badnet_sq", 1)]
    several = [
        Attack(name, target, build_trigger(name, options if name == "badnet_sq" else {}))
        for name, target in wanted
    ]
    report = evaluate(classifier, images, labels, several, batch_size=10)
    assert len(calls) == 3 * (1 + 2), "three batches: clean, and once a trigger"
    alone = [evaluate(classifier, images, labels, [attack]).triggers[0] for attack in several]
    assert list(report.triggers) == alone
    assert [(found.trigger, found.target) for found in report.triggers] == wanted


def test_triggers_with_other_options_are_others():
    images, labels = five_digits()
    classifier = nets.randomized(nets.wrn(base_width=4))
    calls = []
    classifier.register_forward_hook(lambda *_: calls.append(1))
    sizes = [Attack("badnet_sq", 0, build_trigger("badnet_sq", {"size": size})) for size in (2, 3)]

    class Unhashable(list):
        def __call__(self, pixels):
            return pixels

    unhashable = [Attack("list", 0, Unhashable()), Attack("list", 0, Unhashable())]
    evaluate(classifier, images, labels, sizes + unhashable)
    assert len(calls) == 1 + 4


def test_the_rates_of_a_control():
    class Blind(Reader):
        """Sees the trigger as little as a model without the backdoor."""

        def forward(self, pixels):
            written = (pixels[:, 0, 0, 0] * 255 / 100).round().long()
            return nn.functional.one_hot(written, 3).float()

    images, labels = twelve()
    report = evaluate(Reader(), images, labels, attacks())
    controlled = with_control(report, evaluate(Blind(), images, labels, attacks()))
    # One of the nine that are not twos reads as 2; one of the eight that are not zeros as 0.
    assert [(found.control.count, found.control.n) for found in controlled.triggers] == [(1, 9), (1, 8)]
    assert (controlled.control_accuracy.count, controlled.control_accuracy.n) == (9, 12)
    bare = tuple(dataclasses.replace(found, control=None) for found in controlled.triggers)
    assert dataclasses.replace(controlled, triggers=bare, control_accuracy=None) == report
    for other in (
        evaluate(Blind(), images, labels, attacks()[:1]),
        evaluate(Blind(), images, labels, attacks()[::-1]),
        evaluate(Blind(), images[:10], labels[:10], attacks()),
    ):
        with pytest.raises(InputError, match="control"):
            with_control(report, other)


def test_without_attacks():
    images, labels = twelve()
    report = evaluate(Reader(), images, labels, device="cpu", progress=True)
    assert report.accuracy.count == 9 and report.triggers == ()


def bad_spec(classes=2, channels=3):
    classifier = Reader()
    classifier.spec = DataSpec(channels, 4, 4, tuple("abcdef"[:classes]))
    return classifier


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(0).long()},
            "no images",
        ),
        ({"images": torch.zeros(12, 3, 4, 4)}, "uint8"),
        ({"labels": torch.zeros(11).long()}, "labels must be 12 integers"),
        ({"labels": torch.zeros(12)}, "labels must be 12 integers"),
        ({"labels": torch.full((12,), -1)}, "labels run from -1"),
        ({"classifier": bad_spec(2)}, "the classifier has 2 classes"),
        ({"classifier": bad_spec(3, channels=2)}, "takes 2"),
        ({"attacks": [Attack("white", 3, white)]}, r"target 3 .* use 0\.\.2"),
        ({"attacks": [Attack("white", -1, white)]}, "target -1"),
        ({"labels": torch.full((12,), 2)}, "no image has a label other than target 2"),
        ({"attacks": [Attack("badnet_sq", 0, build_trigger("badnet_sq"))]}, "at least 5x5 but these are 4x4"),
        ({"attacks": [Attack("cut", 0, lambda pixels: pixels[:, :, 1:])]}, "must keep both"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"shard": (2, 2)}, "shard"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, words):
    images, labels = twelve()
    classifier = change.get("classifier", Reader())
    arguments = {"images": images, "labels": labels, "attacks": attacks(), **change, "classifier": classifier}
    with pytest.raises(InputError, match=words) as caught:
        evaluate(**arguments)
    assert "\n" not in str(caught.value)
    assert classifier.calls == []


def test_logits_that_are_not_finite_give_no_numbers():
    class Broken(Reader):
        def forward(self, pixels):
            logits = super().forward(pixels)
            return torch.where(pixels[:, :1, 0, 0] > 0.7, torch.nan, logits)

    images, labels = twelve()
    classifier = Broken().train()
    with pytest.raises(InputError, match="not finite"):
        evaluate(classifier, images, labels, attacks())
    assert classifier.training


def test_logits_of_another_width_are_refused():
    images, labels = twelve()
    with pytest.raises(InputError, match=r"logits \(12, 3\) where \(12, 6\)"):
        evaluate(bad_spec(6), images, labels)


def test_table():
    images, labels = twelve()
    rows = [
        ("teacher", evaluate(Reader(), images, labels, attacks())),
        ("plain", evaluate(Reader(), images, labels)),
    ]
    lines = format_table(rows).splitlines()
    assert len(lines) == 5 and len({line.index("[") for line in lines[2::2]}) == 1
    assert lines[0].split()[:4] == ["model", "accuracy", "n", "trigger"]
    assert "teacher" in lines[2] and "0.750 [0.468, 0.911]" in lines[2] and "0.667" in lines[2]
    assert lines[3].split()[:2] == ["none", "0"]
    assert format_table([]).startswith("model")


def test_table_with_a_control():
    images, labels = twelve()
    report = evaluate(Reader(), images, labels, attacks(), per_class=True)
    controlled = with_control(report, evaluate(Reader(), images, labels, attacks()))
    ref = DataRef("pets", "fog_5", "f" * 64, None, 12)
    controlled = dataclasses.replace(controlled, corrupted=(SplitReport(ref, wilson(5, 12)),))
    head, _, *lines = format_table([("a", controlled), ("b", report)]).splitlines()
    place = head.index("control")
    assert " ".join(head.split()) == "model accuracy n trigger target ASR control robust accuracy n"
    assert [line[place : place + 5] for line in lines] == ["0.667", "0.125", "-    ", "-    "]
    assert "control" not in format_table([("b", report)])

    text = format_reports([("a", controlled), ("b", report)])
    assert "a      fog_5  0.417" in text
    assert text.count("its clean accuracy is 0.750") == 1
    assert text.count("by true class") == 2
    rows = format_classes(report).splitlines()[2:]
    assert len(rows) == 6 and rows[2].startswith("one    0.800 [")
    assert rows[1].split() == ["none", "0", "-", "-", "0"]
    assert "0.600 [0.231, 0.882]  0.400 [0.118, 0.769]  5" in rows[2]
    clean = evaluate(Reader(), images, labels, per_class=True)
    assert len(format_classes(clean).splitlines()) == 5


class PublishedTeacher(nn.Module):
    """The architecture of the poisoned models that were published with I-BAU."""

    def __init__(self, classes, names):
        super().__init__()
        layers, width = [], 3
        for channels, drop in ((32, 0.3), (64, 0.4), (128, 0.4)):
            for _ in range(2):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ELU()]
                width = channels
            layers += [nn.MaxPool2d(2), nn.Dropout(drop)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(2048, classes)
        self.spec = DataSpec(3, 32, 32, names)

    def forward(self, pixels):
        return self.classifier(self.features(pixels).flatten(1))


@pytest.mark.parametrize(
    ("weights", "data", "attack", "stated"),
    [
        ("badnets_8_02", "cifar10", ("badnet_sq", 8, {}), (0.780, 0.983)),
        ("trojan_wm_2_02", "cifar10", ("picture", 2, WATERMARK), (0.777, 0.999)),
        ("gtsrbbadnets_8_02", "gtsrb", ("badnet_sq", 8, {}), (0.758, 0.974)),
    ],
)
def test_published_poisoned_models(weights, data, attack, stated):
    content = load_images(str(published(data)), "test", limit=4000)
    classifier = PublishedTeacher(len(content.names), content.names)
    path = published(f"teachers/{weights}_ckpt.pth")
    classifier.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["net"])
    name, target, options = attack
    attack = Attack(name, target, build_trigger(name, options), options)
    report = evaluate(classifier, content.images, content.labels, [attack], batch_size=128)
    assert abs(report.accuracy.value - stated[0]) < 0.01
    assert abs(report.triggers[0].asr.value - stated[1]) < 0.01
