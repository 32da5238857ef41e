"""CMI against its paper written out in plain loops, in float64; its memory of earlier images."""

import copy
import math

import nets
import pytest
import runs
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Classifier, Cmi, DataSpec, InputError, Trainer
from abd_hub.core import seeding
from abd_hub.learning.losses import agreed_divergence, info_nce
from abd_hub.synthesis import cmi, views
from abd_hub.synthesis.batch_norm import BatchNormStatistics
from abd_hub.synthesis.feature_bank import FeatureBank
from abd_hub.synthesis.generator import DoublingConv2d

TINY = {
    "rounds": 3,
    "batch_size": 4,
    "student_steps": 1,
    "generator_steps": 2,
    "synthesis_batch_size": 6,
    "z_dim": 5,
    "generator_channels": 4,
    "embedding_dim": 3,
    "negatives": 8,
    "feature_bank_size": 10,
    "bank_size": 20,
}


def trainer(options=runs.QUIET, dtype=torch.float64, vaccinated=False, **settings):
    teacher = nets.randomized(nets.wrn(base_width=4)).to(dtype).freeze()
    student = nets.wrn(seed=1, dtype=dtype, base_width=4)
    defenses = [runs.VACCINE.build(teacher, 0)] if vaccinated else []
    return Trainer(teacher, student, Cmi(**{**TINY, **settings}), defenses, options)


def draw(*shape, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64)


def textbook_info_nce(queries, keys, tau):
    """Equation by equation: cosine, then the negative logarithm of the own key's share."""

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    losses = []
    for i, query in enumerate(queries):
        shares = [math.exp(cosine(query, key) / tau) for key in keys]
        losses.append(-math.log(shares[i] / sum(shares)))
    return losses


def test_contrast_is_the_formula_over_batch_and_earlier_images():
    at_work = trainer(contrast_temperature=0.3).synthesizer
    at_work.begin_round(1)
    width = at_work.statistics.width
    local, whole = draw(4, width), draw(4, width, seed=1)
    earlier = draw(7, width, seed=2), draw(7, width, seed=3)

    def embedded(rows):
        return at_work.head(rows).tolist()

    alone = textbook_info_nce(embedded(local), embedded(whole), 0.3)
    assert math.isclose(at_work._contrast(local, whole, 0).item(), sum(alone) / 4, rel_tol=1e-12)
    at_work.features.add(*earlier)
    queries = embedded(local) + embedded(earlier[0])
    losses = textbook_info_nce(queries, embedded(whole) + embedded(earlier[1]), 0.3)
    expected = sum(losses[:4]) / 4 + sum(losses[4:]) / 7
    assert math.isclose(at_work._contrast(local, whole, 0).item(), expected, rel_tol=1e-12)


def test_info_nce_keeps_float32_under_autocast():
    queries, keys = draw(5, 64).float(), draw(9, 64, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce(queries, keys, 0.05)
    torch.testing.assert_close(found, info_nce(queries.double(), keys.double(), 0.05).float())


def test_adversarial_term_counts_only_images_on_which_both_agree():
    teacher, student = draw(30, 4), draw(30, 4, seed=1)
    total, agreed = 0.0, 0
    for t, s in zip(teacher.tolist(), student.tolist(), strict=True):
        if t.index(max(t)) != s.index(max(s)):
            continue
        agreed += 1
        p = [math.exp(x) / sum(math.exp(y) for y in t) for x in t]
        q = [math.exp(x) / sum(math.exp(y) for y in s) for x in s]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert 0 < agreed < 30
    assert math.isclose(agreed_divergence(teacher, student).item(), total / 30, rel_tol=1e-12)


def paper_round(run, generator, noise, targets, head, memory, index, penalty):
    """The published loop: every weight gets its gradient, both views in turn, one large matrix of pairs."""
    method, teacher, student = run.method, run.teacher, run.student.eval()
    adam = torch.optim.Adam([*generator.parameters(), noise], lr=1e-3, betas=(0.5, 0.999))
    head_adam = torch.optim.Adam(head.parameters(), lr=1e-3)
    found = []
    for step in range(method.generator_steps):
        chance = seeding.generator(0, "Cmi", index, "views", step, 0)
        pixels = generator(noise)
        whole_view, local_view = (
            views.cropped(pixels, 4, True, chance),
            views.resized(pixels, 0.25, True, chance),
        )
        t, whole, distance = runs.textbook_pass(teacher, whole_view)
        _, local, _ = runs.textbook_pass(teacher, local_view)
        s = student(whole_view)
        loss = F.cross_entropy(t, targets) + distance
        agree = (t.argmax(1) == s.argmax(1)).double()
        loss = loss - 0.5 * (agree * F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)).mean()
        places = torch.randperm(
            len(memory[0]), generator=seeding.generator(0, "Cmi", index, "negatives", step)
        )
        places = places[: method.negatives]
        queries = F.normalize(head(torch.cat([local, memory[0][places]])), dim=1)
        keys = F.normalize(head(torch.cat([whole, memory[1][places]])), dim=1).detach()
        losses = F.cross_entropy(queries @ keys.T / 0.1, torch.arange(len(keys)), reduction="none")
        loss = loss + 0.8 * (losses[: len(local)].mean() + losses[len(local) :].mean())
        if penalty is not None:
            loss = loss + penalty(whole_view, t)
        found.append((loss.item(), pixels.detach(), local.detach(), whole.detach()))
        for one in (adam, head_adam):
            one.zero_grad()
        loss.backward()
        for one in (adam, head_adam):
            one.step()
    return min(found, key=lambda made: made[0]), found


def with_memory(run):
    """A run whose memory holds nine earlier images."""
    width = run.synthesizer.statistics.width
    memory = draw(9, width).abs(), draw(9, width, seed=1).abs()
    run.synthesizer.features.add(*memory)
    run.synthesizer.begin_round(1)
    return run, memory


@pytest.mark.parametrize("vaccinated", [False, True])
def test_a_round_gives_the_images_of_the_papers_loop(vaccinated):
    run, memory = with_memory(trainer(generator_steps=3, vaccinated=vaccinated))
    penalty = runs.VACCINE.build(run.teacher, 0).penalty if vaccinated else None
    synthesizer = run.synthesizer
    generator, noise = synthesizer._fresh()
    head = copy.deepcopy(synthesizer.head)
    (lowest, pixels, local, whole), steps = paper_round(
        run, generator, noise, synthesizer.drawn_classes(), head, memory, 1, penalty
    )
    assert len({loss for loss, *_ in steps}) == 3
    kept = []
    synthesizer.keep = lambda *made: kept.append(made)
    figures = synthesizer.update(run.networks)
    assert (figures["penalty"] != 0) == vaccinated
    assert math.isclose(figures["lowest_loss"].item(), lowest, rel_tol=1e-10)
    torch.testing.assert_close(kept[0][0], pixels, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(kept[0][1], synthesizer.drawn_classes())
    newest = synthesizer.features._pairs[[9, 0, 1, 2, 3, 4]]
    torch.testing.assert_close(newest, torch.stack([local, whole], dim=1), rtol=1e-8, atol=1e-10)
    for (name, mine), paper in zip(synthesizer.head.named_parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(mine, paper, rtol=1e-8, atol=1e-10, msg=name)


def test_the_lower_loss_wins_whole_and_the_first_of_two_equal():
    def made(loss):
        return cmi._Made(torch.tensor(float(loss)), *[torch.full((2, 3), float(loss))] * 3)

    one, low = made(3), made(1)
    assert one.lower(low).pixels.unique() == 1 and low.lower(one).local.unique() == 1
    other = cmi._Made(one.loss, *[torch.zeros(2, 3)] * 3)
    assert one.lower(other).whole.unique() == 3


def test_synthesis_leaves_teacher_and_student_as_they_are():
    run = trainer()
    run.student.train()
    with runs.left_alone(run.teacher, run.student):
        runs.one_update(run)
    assert len(run.synthesizer.bank()) == len(run.synthesizer.features) == 6


def test_every_weight_of_generator_noise_and_head_learns_in_half_precision():
    """Autocast keeps copies of weights; one made without gradient would stop the learning in silence."""
    run, _ = with_memory(trainer(dtype=torch.float32))
    synthesizer = run.synthesizer
    generator, noise = synthesizer._fresh()
    with torch.autocast("cpu", torch.bfloat16):
        pixels = generator(noise).float()
        run.student.eval()
        loss, _, _ = synthesizer._loss(pixels, synthesizer.drawn_classes(), run.networks, 0)
    weights = [noise, *generator.parameters(), *synthesizer.head.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(loss, weights))


def test_statistics_and_their_gradients_are_those_of_plain_reductions():
    teacher = nets.plain(nets.randomized(nets.PlainNet())).freeze()
    statistics = BatchNormStatistics(teacher, "cmi")
    pixels = nets.pixels(5).requires_grad_()
    with statistics.recording():
        logits = teacher(pixels)
    weight = draw(5, statistics.width)
    found = [statistics.loss(), statistics.embeddings()]
    with statistics.recording(images_only=True):
        teacher(pixels)
    found.append(statistics.embeddings())
    expected_logits, means, distance = runs.textbook_pass(teacher, pixels)
    torch.testing.assert_close(logits, expected_logits)
    for mine, plain in zip(found, (distance, means, means), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-10, atol=1e-12)
        factor = weight if mine.ndim else 1.0
        (gradient,) = torch.autograd.grad((mine * factor).sum(), pixels, retain_graph=True)
        (expected,) = torch.autograd.grad((plain * factor).sum(), pixels, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def around(*layers):
    """A classifier of pixels with two channels that these layers pass."""
    spec = DataSpec(2, 16, 16, ("a", "b"))
    return Classifier(nn.Sequential(*layers), spec, (0, 0), (1, 1)).freeze()


class Unused(nn.Module):
    """With a BatchNorm that no image passes, as in an auxiliary head."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.BatchNorm2d(7)
        self.used = nets.PlainNet()

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_never_runs_takes_no_part():
    teacher = nets.plain(nets.randomized(Unused())).freeze()
    run = Trainer(teacher, nets.wrn(seed=1, dtype=torch.float64, base_width=4), Cmi(**TINY), [], runs.QUIET)
    runs.one_update(run)
    assert run.synthesizer.statistics.width == 4 + 6 + 6 + 8
    with pytest.raises(InputError, match="the teacher has none"):
        BatchNormStatistics(around(nn.Flatten(), Idle()), "cmi")


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return x[:, :2]


def test_statistics_in_float32_survive_a_mean_far_from_zero():
    layer = nn.BatchNorm2d(2).eval()
    layer.running_mean.fill_(1000.0)
    statistics = BatchNormStatistics(around(layer), "cmi")
    maps = (draw(8, 2, 16, 16) * 0.1 + 1000).float()
    with statistics.recording():
        layer(maps)
    expected = maps.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(statistics._seen[0][1].double(), expected, rtol=1e-4, atol=0)


def test_doubling_convolution_is_the_convolution_of_doubled_maps():
    layer = DoublingConv2d(3, 5, 3, padding=1).double()
    maps = draw(2, 3, 4, 6).requires_grad_()
    doubled = F.interpolate(maps, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, layer.weight, layer.bias, padding=1)
    found = layer(maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [maps, layer.weight, layer.bias]
    factor = draw(*found.shape, seed=1)
    for mine, plain in zip(
        torch.autograd.grad((found * factor).sum(), inputs),
        torch.autograd.grad((expected * factor).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)


def test_global_view_is_a_crop_of_the_padded_image_or_its_mirror():
    pixels = draw(12, 3, 8, 8)
    padded = F.pad(pixels, (2, 2, 2, 2))
    found = views.cropped(pixels, 2, True, seeding.generator(0, "test"))
    places = set()
    for image, padded_image in zip(found, padded, strict=True):
        crops = {
            (row, column, mirrored): crop.flip(2) if mirrored else crop
            for row in range(5)
            for column in range(5)
            for crop in [padded_image[:, row : row + 8, column : column + 8]]
            for mirrored in (False, True)
        }
        matches = [place for place, crop in crops.items() if torch.allclose(image, crop, atol=1e-5)]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) > 6 and {mirrored for *_, mirrored in places} == {False, True}


def test_local_view_shows_a_box_of_the_area_that_was_asked_for():
    """On an image whose channels are the row and the column, the view tells where it was taken."""
    n, size = 500, 32
    ramp = (torch.arange(size) + 0.5) / size
    image = torch.stack([ramp[:, None].expand(size, size), ramp.expand(size, size)])
    view = views.resized(image.expand(n, 2, size, size), 0.25, True, seeding.generator(0, "test"))
    inside = view[:, :, 8:24, 8:24]  # away from the borders, where the ramp is straight
    height = (inside[:, 0, -1, 0] - inside[:, 0, 0, 0]) / 15 * size
    width = (inside[:, 1, 0, -1] - inside[:, 1, 0, 0]) / 15 * size
    area = height * width.abs()
    assert area.min() > 0.24 and area.max() < 1.01 and 0.5 < area.mean() < 0.65
    assert 0.7 < (height / width.abs()).min() < 0.8 and 1.25 < (height / width.abs()).max() < 1.4
    assert 0.4 < (width < 0).float().mean() < 0.6
    middle = inside.mean((2, 3))
    assert (middle[:, 0] - height / 2 > -0.01).all() and (middle[:, 0] + height / 2 < 1.01).all()
    assert middle.std(dim=0).min() > 0.05


def test_feature_bank_is_bounded_and_forgets_the_oldest():
    bank = FeatureBank(2, 5, torch.zeros(1))
    rows = torch.arange(7.0)[:, None].expand(7, 2)
    bank.add(rows[:3], -rows[:3])
    local, whole = bank.draw(10, seeding.generator(0, "test"))
    assert sorted(local[:, 0].tolist()) == [0, 1, 2] and torch.equal(local, -whole)
    bank.add(rows[3:], -rows[3:])
    local, whole = bank.draw(10, seeding.generator(0, "test"))
    assert sorted(local[:, 0].tolist()) == [2, 3, 4, 5, 6] and torch.equal(local, -whole)
    few = bank.draw(3, seeding.generator(0, "test"))[0][:, 0].tolist()
    assert len(set(few)) == 3
    bank.add(rows, -rows)
    assert len(bank) == 5 and set(bank.draw(5, seeding.generator(0, "test"))[0][:, 0].tolist()) == {
        *range(2, 7)
    }


def test_a_restored_feature_bank_goes_on_as_the_other():
    bank, other = (FeatureBank(2, 5, torch.zeros(1)) for _ in range(2))
    rows = torch.rand(7, 2)
    bank.add(rows, rows + 1)
    other.load_state_dict(copy.deepcopy(bank.state_dict()))
    for one in (bank, other):
        one.add(rows[:2], rows[:2] + 2)
    mine, theirs = (torch.stack(one.draw(4, seeding.generator(0, "a"))) for one in (bank, other))
    assert torch.equal(mine, theirs)


def test_a_teacher_without_batch_norm_is_refused_before_any_work():
    teacher = Classifier(nets.PlainNet(norm=False), nets.SPEC, nets.MEAN, nets.STD).freeze()
    with pytest.raises(InputError, match="cmi: it matches the statistics of BatchNorm layers"):
        Trainer(teacher, nets.wrn(), Cmi(bank_size=10**9, feature_bank_size=10**9), [], runs.QUIET)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generator_steps", 0),
        ("negatives", 0),
        ("contrast_temperature", 0.0),
        ("contrast_weight", -0.1),
        ("local_area", 0.0),
        ("local_area", 1.5),
        ("crop_padding", -1),
        ("generator_channels", 1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"cmi.{field}: must .*got {value}"):
        Cmi(**{field: value})
