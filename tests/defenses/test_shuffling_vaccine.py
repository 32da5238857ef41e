"""The shuffling vaccine against copies of the teacher whose weights are really permuted."""

import copy

import nets
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Classifier, DataSpec, InputError, ShufflingVaccine
from abd_hub.defenses.shuffled_teacher import ShuffledTeacher


def permuted_copies(teacher, shuffled, permutations):
    """K separate models: the input channels of the chosen layers' weights are permuted, groups apart."""
    copies = []
    for k in range(shuffled.copies):
        model = copy.deepcopy(teacher)
        for layer, permutation in zip(shuffled.layers, permutations, strict=True):
            twin = model.get_submodule(layer.name)
            twin.weight.data = twin.weight.data[:, permutation[k]]
        copies.append(model)
    return copies


def make(kind):
    if kind == "plain":
        return nets.plain(nets.randomized(nets.PlainNet())).freeze()
    if kind == "wrn_16_1":
        return nets.randomized(nets.wrn("wrn_16_1")).double().freeze()
    return nets.randomized(nets.wrn("resnet18_cifar")).double().freeze()


@pytest.mark.parametrize("kind", ["plain", "wrn_16_1", "resnet18_cifar"])
@pytest.mark.parametrize("layers", [1, 3, 5])
def test_shared_trunk_equals_separate_models(kind, layers):
    teacher = make(kind)
    shuffled = ShuffledTeacher(teacher, teacher.spec, layers, 3)
    permutations = shuffled.permutations(5, 0)
    images = nets.pixels(7)
    with torch.no_grad():
        expected = torch.stack([m(images) for m in permuted_copies(teacher, shuffled, permutations)])
        found = shuffled.logits(images, permutations)
    assert len(shuffled.layers) == min(layers, 4 if kind == "plain" else 5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, teacher(images).expand_as(found))


def test_trunk_is_shared_where_the_network_allows_it():
    """Block 3 of a WRN is where its copies part; an identity shortcut moves the point outwards."""
    wrn = make("wrn_16_1")
    five = ShuffledTeacher(wrn, wrn.spec, 5, 3)
    assert sorted(layer.name for layer in five.layers) == sorted(
        name for name, m in wrn.named_modules() if isinstance(m, nn.Conv2d) and "group3" in name
    )
    assert five.split is None
    runs = []
    stem = wrn.get_submodule("model.stem")
    handle = stem.register_forward_pre_hook(lambda module, args: runs.append(args[0].shape[0]))
    five.logits(nets.pixels(4), five.permutations(0, 0))
    handle.remove()
    assert runs == [4], "the trunk runs once, on one copy of the batch"
    net = nets.plain(nets.randomized(nets.DepthwiseNet())).freeze()
    assert ShuffledTeacher(net, net.spec, 2, 3).split is not None


def test_grouped_and_depthwise_layers_read_permuted_channels():
    net = nets.plain(nets.randomized(nets.DepthwiseNet())).freeze()
    shuffled = ShuffledTeacher(net, net.spec, 2, 3)
    assert [layer.name for layer in shuffled.layers] == ["model.depthwise", "model.grouped"]
    permutations = shuffled.permutations(0, 0)
    images, model = nets.pixels(4), net.model
    for k, logits in enumerate(shuffled.logits(images, permutations)):
        first, second = (p[k].argsort() for p in permutations)
        x = model.stem(net.normalize(images))
        y = model.grouped(torch.relu(model.depthwise(x[:, first]))[:, second])
        torch.testing.assert_close(logits, model.head((x + y).mean((2, 3))), rtol=1e-9, atol=1e-9)


def test_a_transformer_has_the_inputs_of_its_last_linear_layers_shuffled():
    vit = timm.create_model("test_vit", img_size=32, num_classes=5)
    teacher = Classifier(vit, DataSpec(3, 32, 32, tuple("abcde")), nets.MEAN, nets.STD).freeze()
    shuffled = ShuffledTeacher(teacher, teacher.spec, 3, 2)
    assert all(isinstance(layer.module, nn.Linear) for layer in shuffled.layers)
    assert vit.head not in [layer.module for layer in shuffled.layers]
    permutations = shuffled.permutations(1, 0)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = torch.stack([m(images) for m in permuted_copies(teacher, shuffled, permutations)])
        torch.testing.assert_close(shuffled.logits(images, permutations), expected, rtol=1e-4, atol=1e-4)


def test_penalty_and_its_gradient_are_the_papers():
    teacher = make("plain")
    vaccine = ShufflingVaccine(check=False, coefficient=0.3, layers=2).build(teacher, seed=3)
    images = nets.pixels(32).requires_grad_()
    logits = teacher(images)
    found = vaccine.penalty(images, logits)
    (gradient,) = torch.autograd.grad(found, images)

    twin = images.detach().clone().requires_grad_()
    t = teacher(twin)
    copies = permuted_copies(teacher, vaccine.shuffled, vaccine.shuffled.permutations(3, 0))
    shuffled = torch.stack([model(twin) for model in copies]).mean(0)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for i in range(32):
        if shuffled[i].argmax() == t[i].argmax():
            p, q = F.softmax(t[i], 0), F.softmax(shuffled[i], 0)
            total = total + (p * (p.log() - q.log())).sum() / 5
            count += 1
    assert 0 < count < 32
    expected = -0.3 * total / count
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, twin)[0], rtol=1e-7, atol=1e-12)
    assert vaccine.report().active
    assert vaccine.report().facts["suspicious_share"] == count / 32


def test_an_empty_mask_gives_zero():
    teacher = make("plain")
    vaccine = ShufflingVaccine(check=False).build(teacher)
    images = nets.pixels(16)
    agrees, _ = vaccine.agreement(images, teacher(images))
    rest = images[~agrees]
    assert len(rest)
    penalty = vaccine.penalty(rest, teacher(rest))
    assert penalty.item() == 0


def collect(vaccine, teacher, batches):
    for i in range(batches):
        images = nets.pixels(16, seed=i)
        assert vaccine.penalty(images, teacher(images)).item() == 0
        yield images


def test_the_check_judges_every_draw_on_the_counted_batches():
    teacher = make("wrn_16_1")
    settings = ShufflingVaccine(check_batches=6, check_ignored=2, check_tries=3, check_share=0.0, layers=2)
    vaccine = settings.build(teacher, seed=1)
    seen = list(collect(vaccine, teacher, 6))
    shares = []
    for draw in range(3):
        values = []
        for images in seen[2:]:
            divergence = vaccine.agreement(images, teacher(images), draw)[1]
            values += [float(value.log10()) for value in divergence]
        values = torch.tensor(values, dtype=torch.float64)
        shares.append(float((values < values.mean() - 3 * values.std()).double().mean()))
    assert vaccine.shares == pytest.approx(shares)
    accepted = [draw for draw, share in enumerate(shares) if share > 0]
    assert vaccine.draw == (accepted[0] if accepted else None)


@pytest.mark.parametrize(
    ("triggered", "accepted"), [(0.01, False), (0.05, True), (0.09, True), (0.11, False)]
)
def test_the_check_sees_only_triggers_that_few_images_carry(triggered, accepted):
    vaccine = ShufflingVaccine(check_tries=1).build(make("wrn_16_1"))
    few = round(1000 * triggered)
    # Every triggered image is set apart as far as one likes.
    vaccine.log_kl = [torch.cat([torch.full((1, few), -9.0), torch.zeros(1, 1000 - few)], dim=1).double()]
    vaccine._judge()
    assert vaccine.rejected is not accepted
    assert vaccine.shares == [pytest.approx(triggered if triggered < 0.1 else 0)]


def test_half_made_images_take_no_part_in_the_check_but_are_penalised_after_it():
    teacher = make("wrn_16_1")
    settings = ShufflingVaccine(check_batches=6, check_ignored=2, check_tries=3, check_share=0.0, layers=2)
    with_them, without = (settings.build(teacher, seed=1) for _ in range(2))
    for index in range(6):
        noise = nets.pixels(16, seed=100 + index)
        assert with_them.penalty(noise, teacher(noise), finished=False).item() == 0
        images = nets.pixels(16, seed=index)
        for vaccine in (with_them, without):
            vaccine.penalty(images, teacher(images))
    assert len(without.shares) == 3
    assert with_them.state_dict() == without.state_dict()
    images = nets.pixels(64)
    teacher = make("plain")
    active = [ShufflingVaccine(check=False, layers=2).build(teacher, seed) for seed in range(8)]
    penalties = [vaccine.penalty(images, teacher(images), finished=False).item() for vaccine in active]
    assert min(penalties) < 0


def test_an_inactive_vaccine_says_so():
    teacher = make("plain")
    vaccine = ShufflingVaccine(check_batches=4, check_ignored=1, check_share=0.9).build(teacher)
    assert "collected 0 of 4" in vaccine.report().detail
    list(collect(vaccine, teacher, 6))
    report = vaccine.report()
    assert not report.active
    assert "its check refused it" in report.detail and "in 8 tries" in report.detail
    assert not ShufflingVaccine(check=False, coefficient=0.0).build(teacher).active


def test_state_continues_in_the_middle_of_the_check():
    teacher = make("wrn_16_1")
    settings = ShufflingVaccine(check_batches=6, check_ignored=2, check_tries=2, check_share=0.0)
    whole = settings.build(teacher, seed=1)
    images = list(collect(whole, teacher, 6))
    first = settings.build(teacher, seed=1)
    list(collect(first, teacher, 4))
    second = settings.build(teacher, seed=1)
    second.load_state_dict(first.state_dict())
    for batch in images[4:]:
        second.penalty(batch, teacher(batch))
    assert (second.shares, second.draw) == (whole.shares, whole.draw)


def test_a_teacher_in_train_mode_or_without_layers_is_refused():
    with pytest.raises(InputError, match="train mode"):
        ShufflingVaccine().build(nets.plain(nets.PlainNet()))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(InputError, match="no convolution"):
        ShufflingVaccine().build(nets.plain(linear).freeze())


@pytest.mark.parametrize("field", ["copies", "layers", "check_tries", "coefficient", "check_share"])
def test_values_out_of_range_are_refused_by_name(field):
    with pytest.raises(InputError, match=f"shuffling_vaccine.{field}"):
        ShufflingVaccine(**{field: -1})
