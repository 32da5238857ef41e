"""Trigger inversion against textbook forms, on teachers with a planted backdoor and without."""

from __future__ import annotations

import dataclasses
import math

import nets
import pytest
import torch
from planted import TARGET, planted, rates
from torch import nn

from abd_hub import Classifier, DataSpec, InputError, TriggerInversion, inspect_model, load_images
from abd_hub.core import seeding
from abd_hub.core.inspections import InspectionReport
from abd_hub.inspection import confident, trigger_inversion
from abd_hub.inspection.confident import choose_confident
from abd_hub.inspection.families import FAMILIES
from abd_hub.inspection.trigger_inversion import Search, compare

MASK = TriggerInversion(families=["mask"], steps=100)
FAST = TriggerInversion(steps=12, images_per_class=3, candidates=10)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "train").images


@pytest.fixture(scope="module")
def teachers():
    """For each seed a teacher with a backdoor and a clean twin; the last pair has no BatchNorm."""
    return {
        (seed, poisoned): planted(seed, poisoned=poisoned, norm=seed < 2)
        for seed in (0, 1, 2)
        for poisoned in (True, False)
    }


def textbook(name, parameters, pixels, weights, network, label):
    """The loss of one class as the papers write it, and its trigger's size."""
    if name == "mask":
        mask = 1 / (1 + torch.exp(-parameters[0][label]))
        pattern = 1 / (1 + torch.exp(-parameters[1][label]))
        changed = torch.stack([(1 - mask[0]) * x + mask[0] * pattern for x in pixels])
        size = mask.abs().sum()
    else:
        delta = parameters[0][label]
        changed = torch.stack([torch.minimum(torch.maximum(x + delta, x * 0), x * 0 + 1) for x in pixels])
        size = (delta * delta).sum().sqrt()
    probabilities = torch.exp(network(changed)) / torch.exp(network(changed)).sum(1, keepdim=True)
    return -torch.log(probabilities[:, label]).mean() + weights[label] * size, size


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("chunk", [1 << 19, 3 * 64, 64])
def test_losses_and_gradients(name, chunk, monkeypatch):
    """In one batch, and in parts that split classes or images."""
    monkeypatch.setattr(trigger_inversion, "CHUNK_PIXELS", chunk)
    network = nets.plain(nets.randomized(nets.PlainNet())).freeze()
    pixels = torch.rand(5, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    family = FAMILIES[name](5, pixels[0], torch.Generator().manual_seed(2))
    with torch.no_grad():
        for part in family.parameters:
            part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(3)))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    gradients, success = TriggerInversion()._step(network, family, pixels, torch.arange(5), weights)

    losses, sizes = zip(
        *[textbook(name, family.parameters, pixels[k], weights, network, k) for k in range(5)], strict=True
    )
    wanted = torch.autograd.grad(sum(losses), family.parameters)
    torch.testing.assert_close(torch.stack(sizes), family.sizes(), rtol=1e-12, atol=0)
    for gradient, right in zip(gradients, wanted, strict=True):
        assert right.abs().max() > 1e-3
        torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-12)
    answers = torch.stack([network(family.put(pixels)[k]).argmax(1) == k for k in range(5)])
    torch.testing.assert_close(success.double(), answers.double().mean(1))


def test_the_weight_follows_the_success():
    family = FAMILIES["additive"](3, torch.zeros(1, 3, 4, 4), torch.Generator().manual_seed(0))
    search = Search(family)
    before, size = search.weights.clone(), family.sizes().detach()
    search.remember(torch.tensor([1.0, 0.92, 0.5]), 0)
    torch.testing.assert_close(search.weights, before * torch.tensor([1.1, 1 / 1.15, 1 / 1.15]))
    assert torch.equal(search.best[:2], size[:2]) and math.isinf(search.best[2])
    search.remember(torch.tensor([0.0, 1.0, 1.0]), 1)
    torch.testing.assert_close(search.running, torch.tensor([0.8, 0.936, 0.6]))


def test_the_smallest_trigger_is_kept():
    family = FAMILIES["additive"](2, torch.zeros(1, 3, 4, 4), torch.Generator().manual_seed(0))
    search = Search(family)
    start = family.parameters[0].detach().clone()
    for factor in (1.0, 0.5, 2.0):
        with torch.no_grad():
            family.parameters[0].copy_(start * factor)
        search.remember(torch.ones(2), 0)
    torch.testing.assert_close(search.kept[0], start * 0.5)
    torch.testing.assert_close(search.best, start.flatten(1).norm(dim=1) * 0.5)


def test_ratio_of_the_smallest_two():
    assert compare([8.0, 2.0, 4.0]) == 0.5
    assert compare([math.inf, 2.0, math.inf]) == 0
    assert compare([math.inf, math.inf]) == 1


def test_two_families_are_judged_together():
    """Class 1 leads in both by little, which neither family shows alone."""
    sizes = trigger_inversion._with_joint({"mask": [10.0, 6.0, 10.0], "additive": [1.0, 0.6, 1.0]})
    torch.testing.assert_close(sizes["joint"], [10**0.5, 3.6**0.5, 10**0.5])
    ratios = {name: compare(numbers) for name, numbers in sizes.items()}
    limits = {"mask": 0.5, "additive": 0.5, "joint": 0.7}
    assert trigger_inversion._suspects(sizes, ratios, limits) == (1,)
    assert trigger_inversion._with_joint({"mask": [1.0, 2.0]}) == {"mask": [1.0, 2.0]}

    other = trigger_inversion._with_joint({"mask": [10.0, 6.0, 10.0], "additive": [0.6, 1.0, 1.0]})
    assert compare(other["joint"]) == 1, "two classes lead in one family each"


def test_some_classes_alone(teachers, digits):
    """The search of three classes says nothing of the others, and finds the backdoor among the three."""
    teacher = teachers[0, True]
    some = dataclasses.replace(MASK, classes=[3, TARGET, 5])
    report = inspect_model(teacher, images=digits, inspection=some)
    assert report.suspects == (TARGET,) and report.triggers[0].success > 0.8
    sizes = report.statistics["mask"]
    assert [label for label, size in enumerate(sizes) if not math.isnan(size)] == sorted((3, TARGET, 5))
    assert report.to_json()["statistics"]["mask"][1 if TARGET != 1 else 2] is None
    clean = inspect_model(teachers[0, False], images=digits, inspection=some)
    assert clean.detail.startswith(f"no class of 3 (3), {TARGET} ({TARGET}), 5 (5) stands out")
    for wrong, match in (([1], "at least two"), ([1, 1], "each once"), ([-1, 2], "at least two")):
        with pytest.raises(InputError, match=match):
            TriggerInversion(classes=wrong)
    with pytest.raises(InputError, match=r"classes: must be below 10, got \[3, 10\]"):
        inspect_model(teacher, images=digits, inspection=dataclasses.replace(FAST, classes=[3, 10]))


def test_a_copy_is_inspected_for_the_suspects_and_the_next(teachers, digits):
    sizes = (5.0, 3.0, 9.0, 1.0, 8.0, math.inf, 7.0, math.nan)
    report = inspect_model(teachers[0, True], images=digits, inspection=FAST)
    report = dataclasses.replace(report, statistics={"mask": sizes}, suspects=(3,))
    assert FAST.again(report).classes == (3, 1, 0, 6)
    unflagged = dataclasses.replace(report, suspects=(), triggers=report.triggers[:1])
    assert FAST.again(unflagged).classes[0] == report.triggers[0].label


def test_images_are_confident_ones_of_other_classes(teachers, digits):
    teacher = teachers[0, False]
    chosen = choose_confident(teacher, digits, 5)
    confidence, labels = teacher(digits.float() / 255).softmax(1).max(1)
    for label, row in zip(chosen.classes.tolist(), chosen.rows, strict=True):
        least = confidence[row].min()
        members = (labels == label).nonzero().flatten()
        assert (labels[row] == label).all()
        assert sorted(confidence[members].tolist(), reverse=True)[4] == least

    drawn = chosen.draw(torch.arange(10), 400, seeding.generator(0, "test"))
    for goal in range(10):
        found = teacher(drawn[goal]).argmax(1).bincount(minlength=10)
        assert found[goal] == 0
        assert found[torch.arange(10) != goal].min() > 20, "of 44: each other class as often"
    assert (teacher(chosen.others(3, 2)).argmax(1).bincount(minlength=10) == 2).sum() == 9


def test_classes_without_images_can_be_goals(digits):
    """A teacher that never gives class 0 or 9."""
    spec = DataSpec(3, 8, 8, tuple("0123456789"))

    class Never(nn.Module):
        def forward(self, x):
            logits = x.mean((2, 3))[:, :1] * torch.arange(10.0) * 9
            return torch.cat(
                [
                    logits[:, :1] - 99,
                    logits[:, 1:9] * torch.tensor([-1.0] * 4 + [1.0] * 4),
                    logits[:, 9:] - 99,
                ],
                1,
            )

    teacher = Classifier(Never(), spec, (0.3,) * 3, (0.4,) * 3).freeze()
    chosen = choose_confident(teacher, digits, 5)
    assert {0, 9}.isdisjoint(chosen.classes.tolist())
    drawn = chosen.draw(torch.arange(10), 50, seeding.generator(0, "test"))
    found = teacher(drawn.flatten(0, 1)).argmax(1).view(10, 50)
    assert (found != torch.arange(10)[:, None]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_backdoor_is_found(teachers, digits, seed):
    accuracy, success = rates(teachers[seed, True])
    assert accuracy > 0.9 and success > 0.9
    report = inspect_model(teachers[seed, True], images=digits, inspection=MASK, seed=seed)
    assert report.flagged and report.suspects[0] == TARGET, report.scores
    assert report.statistics["mask"].index(min(report.statistics["mask"])) == TARGET
    assert "class 7 (7)" in report.detail and report.detail.endswith("suspicious")
    mask = next(trigger for trigger in report.triggers if trigger.family == "mask")
    assert mask.label == TARGET and mask.success > 0.5 and mask.size < 0.6 * mask.ordinary_size
    assert mask.size < 3, "the planted trigger is one pixel"
    assert mask.mask.shape == (1, 8, 8) and mask.pattern.shape == (3, 8, 8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_twin_is_not_flagged(teachers, digits, seed):
    accuracy, success = rates(teachers[seed, False])
    assert accuracy > 0.9 and success < 0.05
    report = inspect_model(teachers[seed, False], images=digits, inspection=MASK, seed=seed)
    assert not report.flagged and report.suspects == (), report.scores
    assert "does not show that the model is clean" in report.detail
    assert report.triggers, "the leading class of each family can still be looked at"


def same(one, other):
    tensors = ("mask", "pattern", "delta")
    assert one.statistics == other.statistics
    for a, b in zip(one.triggers, other.triggers, strict=True):
        assert a.facts() == b.facts()
        pairs = [(getattr(a, name), getattr(b, name)) for name in tensors]
        assert all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def test_the_same_seed_gives_the_same_bits(teachers, digits):
    torch.manual_seed(5)
    longer = dataclasses.replace(FAST, steps=60)  # after 12 steps no trigger may have worked yet
    first = inspect_model(teachers[0, True], images=digits, inspection=longer, seed=4)
    state = torch.random.get_rng_state()
    second = inspect_model(teachers[0, True], images=digits, inspection=longer, seed=4)
    assert torch.equal(state, torch.random.get_rng_state()), "no draw from the global generator"
    same(first, second)
    other = inspect_model(teachers[0, True], images=digits, inspection=longer, seed=5)
    assert other.statistics != first.statistics


def test_the_teacher_stays_as_it_is(digits):
    teacher = planted(0, poisoned=False, epochs=1)
    teacher.frozen = False
    teacher.requires_grad_(True).train()
    teacher.model[1].eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes = [module.training for module in teacher.modules()]
    inspect_model(teacher, images=digits, inspection=FAST)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert [module.training for module in teacher.modules()] == modes
    assert all(weight.grad is None and weight.requires_grad for weight in teacher.parameters())


def test_bfloat16(teachers, digits):
    """Other numbers, close to those of float32."""
    fast = dataclasses.replace(FAST, steps=25)
    whole = inspect_model(teachers[2, True], images=digits, inspection=fast).statistics["mask"]
    half = dataclasses.replace(fast, mixed_precision="bf16")
    found = inspect_model(teachers[2, True], images=digits, inspection=half).statistics["mask"]
    assert found != whole
    assert all(
        math.isinf(a) or math.isinf(b) or abs(a / b - 1) < 0.5 for a, b in zip(found, whole, strict=True)
    )


class Hostile(nn.Module):
    """Logits of ten classes, without a weight."""

    def __init__(self, kind, classes=10):
        super().__init__()
        self.kind, self.classes = kind, classes

    def forward(self, x):
        logits = x.flatten(1)[:, : self.classes] * 1.0
        if self.kind == "nan":
            return logits * math.nan
        if self.kind == "constant":
            return logits * 0
        if self.kind == "one winner":
            return logits + 100 * (torch.arange(self.classes) == 2)
        return torch.where(x.amax((1, 2, 3))[:, None] > 3, math.nan, logits)


@pytest.mark.parametrize(
    ("kind", "classes", "message"),
    [
        ("nan", 10, "^teacher: gives logits that are not finite; "),
        ("constant", 10, "^teacher: gives the same logits to every image; "),
        ("one winner", 10, "^images: all 1258 get class 2; "),
        ("any", 1, "^teacher: has 1 class; "),
    ],
)
def test_hostile_teachers(digits, kind, classes, message):
    spec = DataSpec(3, 8, 8, tuple("0123456789"[:classes]))
    teacher = Classifier(Hostile(kind, classes), spec, (0.3,) * 3, (0.4,) * 3)
    with pytest.raises(InputError, match=message) as refused:
        inspect_model(teacher, images=digits, inspection=FAST)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4, 1, 8, 8), "^images: have shape"),
        (torch.rand(3, 8, 8), "^images: have shape"),
        (torch.rand(4, 3, 8, 8) * 2, "^images: torch.float32"),
        (torch.ones(4, 3, 8, 8, dtype=torch.int64), "^images: torch.int64"),
        (torch.rand(0, 3, 8, 8), "^images: there is none"),
    ],
)
def test_wrong_images(teachers, images, message):
    with pytest.raises(InputError, match=message):
        inspect_model(teachers[0, False], images=images, inspection=FAST)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"families": []}, {"families": ["mask", "mask"]}, {"mask_ratio": 1.0}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(InputError, match=rf"^trigger_inversion\.{next(iter(settings))}: must"):
        TriggerInversion(**settings)


def test_few_pixels_at_a_time(teachers, digits, monkeypatch):
    """No batch is larger than the limit, and the answers stay the same up to rounding."""
    seen = []
    teacher = teachers[2, False]
    handle = teacher.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    whole = inspect_model(teacher, images=digits[:300], inspection=FAST)
    assert max(seen) == 300
    for module in (trigger_inversion, confident):
        monkeypatch.setattr(module, "CHUNK_PIXELS", 64 * 7)
    seen.clear()
    parts = inspect_model(teacher, images=digits[:300], inspection=FAST)
    handle.remove()
    assert max(seen) == 7
    for name, numbers in whole.statistics.items():
        torch.testing.assert_close(
            torch.tensor(numbers), torch.tensor(parts.statistics[name]), rtol=2e-2, atol=1e-3
        )


def test_an_unreachable_class_has_infinite_size():
    """Its logit lies below all others, so no trigger can lead there."""

    class Shut(nn.Module):
        def forward(self, x):
            logits = x.mean((2, 3)) * 20
            return torch.cat([logits, logits.amin(1, keepdim=True) - 5], 1)

    teacher = Classifier(Shut(), DataSpec(3, 8, 8, tuple("rgbx")), (0.5,) * 3, (0.25,) * 3)
    report = inspect_model(
        teacher, images=torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    )
    assert all(math.isinf(row[3]) and math.isfinite(min(row)) for row in report.statistics.values())
    assert report.to_json()["statistics"]["mask"][3] is None
    stored = InspectionReport.from_json(report.to_json())
    assert stored.to_json() == report.to_json() and stored.searched == report.searched
    assert stored.statistics["mask"] == report.statistics["mask"]
    again = TriggerInversion().again(report)
    assert TriggerInversion().again(stored).classes == again.classes and set(again.classes) == {0, 1, 2, 3}
