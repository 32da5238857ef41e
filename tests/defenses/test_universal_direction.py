"""The universal direction: its search on a planted network, the projection, and what a run remembers."""

import copy
from types import SimpleNamespace

import nets
import pytest
import torch
from torch import nn

from abd_hub import InputError
from abd_hub.core import seeding
from abd_hub.defenses.universal_direction import UniversalDirection
from abd_hub.learning import checkpoint

TEACHER = SimpleNamespace(spec=nets.SPEC)
CLASSES, PLANTED = nets.SPEC.num_classes, 3


def unit_vectors(count, seed):
    """(count, 192), orthonormal, zero in the 2x2 patch in the bottom right corner; then the patch itself."""
    patch = torch.zeros(3, 8, 8, dtype=torch.float64)
    patch[:, 6:, 6:] = 1
    patch = patch.flatten() / patch.norm()
    noise = torch.randn(192, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise[patch > 0] = 0
    return torch.linalg.qr(noise).Q.T.contiguous(), patch


class Planted(nn.Module):
    """A class is a dense pattern, too strong to be overruled; one class also listens to the patch."""

    def __init__(self):
        super().__init__()
        patterns, self.patch = unit_vectors(CLASSES, seed=0)
        self.patterns = nn.Parameter(patterns)

    def forward(self, x):
        x = x.flatten(1) - 0.5
        logits = 2 * x @ self.patterns.T
        backdoor = 8 * x @ self.patch
        return logits + backdoor[:, None] * torch.eye(CLASSES, dtype=x.dtype)[PLANTED]

    def images(self, n):
        """Pixels that lie well inside their class."""
        labels = torch.arange(n) % CLASSES
        return 0.5 + 3 * self.patterns.detach()[labels].view(n, 3, 8, 8) + 0.02 * (nets.pixels(n) - 0.5)


class Linear(nn.Module):
    """A student without a backdoor and without random weights."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, CLASSES).double()
        nets.randomized(self.layer, seed=7)

    def forward(self, x):
        return self.layer(x.flatten(1))


def sought(seed=0, **settings):
    """A defense that has already sought its direction, and the direction."""
    defense = UniversalDirection(begin=0.0, steps=3, step_images=10, **settings).build(TEACHER, seed)
    defense.drawn(nets.pixels(6))
    defense.begin_round(1, 2, Linear())
    assert defense.direction is not None
    return defense, defense.direction


# --- the search -------------------------------------------------------------------------------------


def test_search_finds_the_planted_class_and_its_pixels():
    student = Planted().eval()
    defense = UniversalDirection().build(TEACHER, 0)
    found = defense.search(student, student.images(50))
    assert max(range(CLASSES), key=defense.flips.__getitem__) == PLANTED
    assert defense.flips[PLANTED] == 1
    # Of the others only the planted class's own images move: without the patch they leave their class.
    assert all(rate <= 0.25 for label, rate in enumerate(defense.flips) if label != PLANTED)
    assert found.shape == (3, 8, 8)
    torch.testing.assert_close(found.norm(), torch.tensor(1.0, dtype=torch.float64))
    assert found[:, 6:, 6:].square().sum() == found.square().sum()
    assert found.flatten() @ student.patch > 0.99


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6, 1.0])
def test_small_entries_are_exactly_zero(threshold):
    student = Planted().eval()
    images = student.images(20)
    dense = UniversalDirection(threshold=0, steps=5).build(TEACHER, 0).search(student, images)
    found = UniversalDirection(threshold=threshold, steps=5).build(TEACHER, 0).search(student, images)
    kept = dense.abs() >= threshold * dense.abs().max()
    assert torch.equal(found != 0, kept)
    expected = torch.where(kept, dense, 0)
    torch.testing.assert_close(found, expected / expected.norm())


def textbook(student, images, settings, seed):
    """The search as the module describes it, class by class, image by image where that is simpler."""
    draw = seeding.generator(seed, "universal_direction search")
    deltas = list((0.1 * torch.randn(CLASSES, 3, 8, 8, generator=draw)).double())
    deltas = [delta * min(1, settings.epsilon / float(delta.norm())) for delta in deltas]
    for step in range(settings.steps):
        chosen = torch.randint(len(images), (settings.step_images,), generator=draw).tolist()
        for goal in range(CLASSES):
            own = images[[image for row, image in enumerate(chosen) if row % CLASSES == goal]]
            delta = deltas[goal].clone().requires_grad_()
            loss = -student(own + delta).log_softmax(1)[:, goal].mean()
            (slope,) = torch.autograd.grad(loss, [delta])
            length = 0.3 * settings.epsilon * (settings.steps - step) / settings.steps
            moved = deltas[goal] - length * slope / slope.norm()
            deltas[goal] = moved * min(1, settings.epsilon / float(moved.norm()))
    flips = []
    for goal, delta in enumerate(deltas):
        others = [image for image in images if int(student(image[None]).argmax()) != goal]
        reached = [int(student(image[None] + delta).argmax()) == goal for image in others]
        flips.append(sum(reached) / max(1, len(reached)))
    best = deltas[flips.index(max(flips))].clone()
    best[best.abs() < settings.threshold * best.abs().max()] = 0
    return best / best.norm(), flips


@pytest.mark.parametrize("epsilon", [0.3, 1.5])
@pytest.mark.parametrize(
    "student",
    [Linear(), nets.plain(nets.randomized(nets.PlainNet(), seed=3)).freeze()],
    ids=["linear", "net"],
)
def test_search_is_the_textbooks(student, epsilon):
    settings = UniversalDirection(epsilon=epsilon, steps=6, step_images=22, threshold=0.3)
    defense = settings.build(TEACHER, 5)
    images = nets.pixels(20, seed=2) - 0.5
    found = defense.search(student, images)
    expected, flips = textbook(student, images, settings, seed=5)
    assert defense.flips == pytest.approx(flips)
    assert max(flips) > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_search_leaves_the_student_alone():
    student = nets.wrn(base_width=4, drop_rate=0.3).train()
    before = copy.deepcopy(student.state_dict())
    state = torch.random.get_rng_state()
    defense = UniversalDirection(begin=0.5, steps=2, step_images=5).build(TEACHER, 0)
    defense.drawn(nets.pixels(4, dtype=torch.float32))
    defense.begin_round(1, 2, student)
    assert defense.direction is not None
    assert all(module.training for module in student.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in student.parameters())
    assert not defense.direction.requires_grad
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.random.get_rng_state(), state)


# --- what the networks see --------------------------------------------------------------------------


def test_images_pass_unchanged_before_the_search():
    defense = UniversalDirection().build(TEACHER, 0)
    images = nets.pixels(4)
    assert defense.drawn(images) is images
    assert defense.student_view(images) is images
    report = defense.report()
    assert not report.active
    assert "has not been sought" in report.detail


def test_drawn_is_the_orthogonal_projection():
    defense, u = sought()
    images = nets.pixels(5, seed=9)
    once = defense.drawn(images)
    twice = defense.drawn(once)
    expected = torch.stack([image - (image * u).sum() * u for image in images])
    torch.testing.assert_close(once, expected)
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close((once * u).sum((1, 2, 3)), torch.zeros(5, dtype=torch.float64))


def test_drawn_passes_the_gradient_on_to_the_generator():
    defense, u = sought()
    images = nets.pixels(2).requires_grad_()
    weights = nets.pixels(2, seed=1)
    (defense.drawn(images) * weights).sum().backward()
    expected = torch.stack([weight - (weight * u).sum() * u for weight in weights])
    torch.testing.assert_close(images.grad, expected)


def test_the_student_sees_amounts_of_the_direction_on_a_share_of_the_images():
    defense, u = sought(share=0.3, amplitude=2.5)
    images = nets.pixels(600, seed=1)
    moved = defense.student_view(images) - images
    amounts = (moved * u).sum((1, 2, 3))
    torch.testing.assert_close(moved, amounts.view(-1, 1, 1, 1) * u)
    hit = amounts[moved.flatten(1).any(1)]
    assert 0.24 * 600 < len(hit) < 0.36 * 600
    assert hit.abs().max() <= 2.5
    assert hit.min() < -2.2
    assert hit.max() > 2.2
    assert abs(hit.mean()) < 0.4


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (1.0, 40)])
def test_share_zero_and_one(share, changed):
    defense, _ = sought(share=share)
    images = nets.pixels(40)
    assert (defense.student_view(images) != images).flatten(1).any(1).sum() == changed


def test_amounts_follow_from_seed_and_call():
    images = nets.pixels(20)
    (first, u), (again, _), (other, _) = sought(seed=1), sought(seed=1), sought(seed=2)
    other.direction = u
    calls = [first.student_view(images) for _ in range(3)]
    assert all(torch.equal(again.student_view(images), call) for call in calls)
    assert not torch.equal(calls[0], calls[1])
    assert not torch.equal(other.student_view(images), calls[0])


# --- the run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "rounds", "expected"), [(0.67, 12, 8), (0.5, 4, 2), (0.9, 5, 4), (0.0, 3, 1), (1.0, 3, None)]
)
def test_it_begins_exactly_in_its_round(begin, rounds, expected):
    """With ``begin`` 0 in the second round: there are no images before."""
    defense = UniversalDirection(begin=begin, steps=1, step_images=5).build(TEACHER, 0)
    began = None
    for index in range(rounds):
        defense.begin_round(index, rounds, Linear())
        if defense.direction is not None and began is None:
            began = index
        defense.drawn(nets.pixels(2, seed=index))
    assert began == expected


def test_it_is_sought_once():
    defense, u = sought()
    defense.drawn(nets.pixels(3, seed=8))
    defense.begin_round(2, 3, Linear())
    assert defense.direction is u
    assert not defense.recent


def test_it_keeps_the_first_images_of_the_latest_rounds():
    defense = UniversalDirection(batches=3).build(TEACHER, 0)
    for index in range(7):
        defense.begin_round(index, 100, Linear())
        defense.drawn(nets.pixels(2, seed=index).requires_grad_())
        defense.drawn(nets.pixels(2, seed=100 + index))
    assert len(defense.recent) == 3
    for index, images in enumerate(defense.recent):
        assert torch.equal(images, nets.pixels(2, seed=4 + index))
        assert not images.requires_grad


def play(defense, student, rounds):
    """What the networks would see in these rounds of eight; the images lie in memory channels last."""
    seen = []
    for index in rounds:
        defense.begin_round(index, 8, student)
        images = nets.pixels(4, seed=index, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
        seen += [defense.drawn(images), defense.student_view(images), defense.student_view(images)]
    return seen


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 6])
def test_resumed_is_bit_identical(tmp_path, stop):
    """Stops before the first images, while they are collected, before the search and after it."""
    student = nets.randomized(nets.wrn(base_width=4)).to(memory_format=torch.channels_last)
    settings = UniversalDirection(begin=0.5, batches=3, steps=2, step_images=5)
    whole, first, second = (settings.build(TEACHER, 0) for _ in range(3))
    expected = play(whole, student, range(8))
    seen = play(first, student, range(stop))
    path = checkpoint.save(tmp_path, stop, first.state_dict(), 1)
    second.load_state_dict(checkpoint.load(path)[1])
    seen += play(second, student, range(stop, 8))
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert second.report() == whole.report()


def test_the_report_names_class_and_entries():
    student = Planted()
    defense = UniversalDirection(begin=0.0).build(TEACHER, 0)
    defense.drawn(student.images(30))
    defense.begin_round(1, 2, student)
    defense.student_view(student.images(5))
    report = defense.report()
    assert (report.name, report.active) == ("universal_direction", True)
    assert report.detail.startswith(
        "class d stands out: a perturbation towards d turned 100% of other synthetic"
    )
    assert report.detail.endswith("and 0% once its direction of 12 entries was taken out")
    assert report.facts["flip_rate_after_removal"] == 0
    assert report.facts["class"] == PLANTED
    assert report.facts["entries"] == 12
    assert report.facts["student_steps"] == 1


def test_the_rate_after_the_removal_is_that_of_the_projected_images():
    student, images = Linear(), nets.pixels(20, seed=2) - 0.5
    defense = UniversalDirection(epsilon=1.5, steps=6, step_images=22, threshold=0.9).build(TEACHER, 5)
    kept = []
    rates = defense._flip_rates
    defense._flip_rates = lambda net, seen, deltas: kept.append(list(deltas)) or rates(net, seen, kept[-1])
    defense.direction = defense.search(student, images)
    best = max(range(CLASSES), key=defense.flips.__getitem__)
    before = student(defense.drawn(images)).argmax(1)
    after = student(defense.drawn(images + kept[0][best][1])).argmax(1)
    others = before != best
    assert 0 < float(((after == best) & others).sum() / others.sum()) == pytest.approx(defense.left)


def test_where_nothing_stands_out_the_report_says_so():
    defense, _ = sought()
    defense.flips = [0.38, 0.35, 0.1]
    assert defense.report().detail.startswith("no class stands out: a perturbation towards")
    defense.load_state_dict({name: one for name, one in defense.state_dict().items() if name != "left"})
    assert "(the next class 35%), and an unknown share once its direction" in defense.report().detail


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("batches", "steps", "step_images") for value in (0, -1)],
        *[(name, value) for name in ("epsilon", "amplitude") for value in (0.0, -1.0, NAN)],
        *[(name, value) for name in ("begin", "threshold", "share") for value in (-0.1, 1.1, NAN)],
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"universal_direction\.{name}: .*{value}"):
        UniversalDirection(**{name: value})
