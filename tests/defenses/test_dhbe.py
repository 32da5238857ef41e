"""DHBE against a loop written from the paper and its published code, in float64."""

import copy
import re

import nets
import pytest
import torch
import torch.nn.functional as F

from abd_hub import Batch, DataSpec, Dhbe, InputError
from abd_hub.core import seeding
from abd_hub.learning.modes import running_statistics_kept

TINY = {"patch_size": 3, "z_dim": 6, "generator_channels": 4}


def student_of(seed=1):
    return nets.plain(nets.randomized(nets.PlainNet(), seed)).train()


def teacher_of():
    return nets.plain(nets.randomized(nets.PlainNet(), 2)).freeze()


def batch_of(pixels):
    return Batch(pixels, torch.zeros(len(pixels), 5, dtype=pixels.dtype))


def draws_of(settings, seed, purpose, step, images):
    """Noise of the whole batch and the top left corner of its patches, as the defense draws them."""
    draws = seeding.generator(seed, "dhbe", purpose, step)
    noise = torch.randn(images, settings.z_dim, generator=draws).double()
    top, left = (int(torch.randint(8 - settings.patch_size + 1, (1,), generator=draws)) for _ in range(2))
    return noise, top, left


def normalized(maps):
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) / (variance + 1e-5).sqrt()


def textbook_patches(weights, noise, settings):
    """Linear, BatchNorm, 3x3 convolution, BatchNorm without scale and shift, tanh."""
    linear, bias, scale, shift, kernel = weights
    size = settings.patch_size
    maps = (noise @ linear.T + bias).view(len(noise), settings.generator_channels, size, size)
    maps = normalized(maps) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    return normalized(F.conv2d(maps, kernel, padding=1)).tanh()


def with_patches(images, patches, top, left):
    """One patch an image, at one place for all of them; the sum is not clamped."""
    patched = images.clone()
    size = patches.shape[-1]
    patched[:, :, top : top + size, left : left + size] += patches
    return patched


def test_the_games_steps_are_those_of_the_published_loop():
    """Five student steps on L1(S, T) + 0.1 L1(S(x + p), S(x)), then one of the patch generator, and so on."""
    settings, seed = Dhbe(**TINY), 3
    teacher, student = teacher_of(), student_of()
    defense = settings.build(teacher, seed)
    images = [nets.pixels(6, index) for index in range(12)]
    theirs, weights = copy.deepcopy(student), [w.detach().clone() for w in defense.generator.parameters()]
    start = [weight.clone() for weight in weights]

    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    for pixels in images:
        F.l1_loss(student(pixels), teacher(pixels)).backward()
        defense.add_gradients(student, batch_of(pixels))
        optimizer.step()
        optimizer.zero_grad()

    for weight in weights:
        weight.requires_grad_()
    student_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    generator_optimizer = torch.optim.Adam(weights, lr=1e-3)
    effects = []
    for step, pixels in enumerate(images):
        if step in (5, 10):
            noise, top, left = draws_of(settings, seed, "generator", step, 6)
            patched = with_patches(pixels, textbook_patches(weights, noise, settings), top, left)
            generator_optimizer.zero_grad()
            (-F.l1_loss(theirs(patched), theirs(pixels))).backward()
            generator_optimizer.step()
        noise, top, left = draws_of(settings, seed, "student", step, 6)
        patches = textbook_patches(weights, noise, settings).detach()
        effect = F.l1_loss(theirs(with_patches(pixels, patches, top, left)), theirs(pixels).detach())
        effects.append(effect.item())
        student_optimizer.zero_grad()
        (F.l1_loss(theirs(pixels), teacher(pixels)) + 0.1 * effect).backward()
        student_optimizer.step()

    for (name, ours), expected in zip(student.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10, msg=name)
    for ours, expected, before in zip(defense.generator.parameters(), weights, start, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
        assert (ours - before).abs().max() > 5e-4, "the generator has learned"
    assert defense.effects.tolist() == pytest.approx(effects, rel=1e-8)


def test_it_adds_to_what_is_there_and_keeps_running_statistics():
    student = nets.wrn(dtype=torch.float64, drop_rate=0.3).train()
    settings, images = Dhbe(**TINY, weight=0.7), nets.pixels(8)
    defense = settings.build(nets.wrn(seed=1, dtype=torch.float64).freeze(), seed=4)
    student(images).sum().backward()
    before = {n: p.grad.clone() for n, p in student.named_parameters()}
    statistics = {n: b.clone() for n, b in student.named_buffers()}

    noise, top, left = draws_of(settings, 4, "student", 0, 8)
    patches = textbook_patches([*defense.generator.parameters()], noise, settings).detach()
    with running_statistics_kept(student):
        moved, clean = student(with_patches(images, patches, top, left)), student(images).detach()
        added = torch.autograd.grad(0.7 * F.l1_loss(moved, clean), list(student.parameters()))

    defense.add_gradients(student, batch_of(images))
    for (name, parameter), gradient in zip(student.named_parameters(), added, strict=True):
        torch.testing.assert_close(parameter.grad, before[name] + gradient)
    assert any(gradient.abs().max() > 0 for gradient in added)
    for name, buffer in student.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
    assert student.training
    assert all(weight.grad is None for weight in defense.generator.parameters())


def test_the_generator_learns_patches_that_move_the_student_further():
    defense = Dhbe(**TINY, generator_every=1, generator_learning_rate=0.01).build(teacher_of(), seed=0)
    student, images = student_of(), nets.pixels(16)
    for _ in range(80):  # no student step
        defense.add_gradients(student, batch_of(images))
    first, last = defense.effects[:20].mean(), defense.effects[-20:].mean()
    assert last > 1.1 * first


def test_an_image_has_a_patch_of_its_own_at_a_place_that_all_images_share():
    settings = Dhbe(**TINY)
    defense = settings.build(teacher_of())
    places = set()
    for step in range(300):
        found = defense.perturbation("student", step, nets.pixels(4)).detach()
        rows, columns = ((found != 0).any(dim=1).any(dim=side) for side in (2, 1))
        assert (rows == rows[0]).all() and (columns == columns[0]).all()
        assert rows[0].sum() == columns[0].sum() == 3
        assert found.abs().max() < 1
        assert len(found.flatten(1).unique(dim=0)) == 4
        places.add((int(rows[0].nonzero()[0]), int(columns[0].nonzero()[0])))
    assert places == {(top, left) for top in range(6) for left in range(6)}


def test_images_need_not_be_square():
    net = nets.plain(nets.PlainNet()).freeze()
    net.spec = DataSpec(3, 5, 12, tuple("abcde"))
    found = Dhbe().build(net).perturbation("student", 0, torch.rand(2, 3, 5, 12, dtype=torch.float64))
    assert found.shape == (2, 3, 5, 12)
    assert (found != 0).any(dim=1).sum(dim=(1, 2)).tolist() == [25, 25]


def test_the_generators_rate_falls_twice():
    defense = Dhbe(**TINY).build(teacher_of())
    rates = []
    for index in range(10):
        defense.begin_round(index, 10, student_of())
        rates.append(defense.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 6 + [1e-4] * 2 + [1e-5] * 2)


def test_the_report_tells_what_was_measured():
    defense = Dhbe(**TINY, generator_every=2).build(teacher_of())
    assert not defense.report().active
    assert "NOT ACTIVE" in defense.report().sentence
    student, images = student_of(), nets.pixels(4)
    everything = []
    for _ in range(103):
        defense.add_gradients(student, batch_of(images))
        everything.append(float(defense.effects[-1]))
    report = defense.report()
    assert report.active
    mean = sum(everything[3:]) / 100
    assert report.facts == {
        "student_steps": 103,
        "generator_steps": 51,
        "latest_steps": 100,
        "latest_effect": pytest.approx(mean, rel=1e-3),
    }
    assert float(re.search(r"by (\S+) on average", report.detail)[1]) == pytest.approx(mean, rel=1e-2)


def test_the_evidence_is_a_patch_of_the_generator_and_outlives_a_stop():
    settings = Dhbe(**TINY, generator_every=2)
    first, resumed = settings.build(teacher_of(), 5), settings.build(teacher_of(), 5)
    student, images = student_of(), nets.pixels(6)
    assert first.evidence(images) is None
    for _ in range(4):
        first.add_gradients(student, batch_of(images))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    noise, top, left = draws_of(settings, 5, "student", 3, 6)
    with torch.no_grad():
        patches = textbook_patches([*first.generator.parameters()], noise, settings)
        expected = with_patches(torch.zeros_like(images), patches, top, left)[0]
        torch.testing.assert_close(resumed.evidence(images).pattern, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0.0),
        ("patch_size", 2),
        ("patch_size", 10),
        ("generator_every", 0),
        ("generator_learning_rate", 0.0),
        ("learning_rate_drops", (0.5, 1.0)),
        ("z_dim", 0),
        ("generator_channels", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=rf"^dhbe\.{field}"):
        Dhbe(**{field: value})


def test_a_patch_larger_than_the_images_is_refused():
    with pytest.raises(InputError, match=r"^dhbe\.patch_size: 9 .* 8x8"):
        Dhbe(patch_size=9).build(teacher_of())
