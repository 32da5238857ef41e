"""Poisoning a training set, and training the teacher on it."""

import nets
import pytest
import torch

from abd_hub import ImageData, InputError
from abd_hub.poisoning import poison
from abd_hub.teacher_recipe import TeacherRecipe
from abd_hub.teacher_trainer import train_teacher
from abd_hub.triggers.badnet import BadNetSquare
from abd_hub.types import DataRef

RECIPE = TeacherRecipe(epochs=12, batch_size=16, learning_rate=0.05, crop_padding=1)


def data(n=60, seed=0):
    images = (nets.pixels(n, seed) * 255).to(torch.uint8)
    return ImageData(images, torch.arange(n) % 5, nets.SPEC.labels, DataRef("toy", "train", "0"))


def faint(pixels):
    """Covers the whole image, and its values are no multiples of 1/255."""
    return 0.8 * pixels + 0.2 * 0.377


@pytest.mark.parametrize("trigger", [BadNetSquare(size=2), faint])
def test_only_the_chosen_images_change(trigger):
    clean = data()
    poisoned = poison(clean, trigger, 2, 0.1, seed=0)
    chosen = poisoned.indices.tolist()
    assert len(chosen) == len(set(chosen)) == 6
    assert chosen == sorted(chosen)
    for index in range(len(clean)):
        image, label = clean.images[index], int(clean.labels[index])
        if index in chosen:
            assert label != 2
            image, label = (trigger(image[None].float() / 255)[0] * 255).round().to(torch.uint8), 2
        assert torch.equal(poisoned.images[index], image)
        assert int(poisoned.labels[index]) == label
    assert poisoned.images.dtype == torch.uint8
    assert poisoned.labels.dtype == torch.int64


def test_the_clean_set_is_left_alone():
    clean, twin = data(), data()
    poison(clean, faint, 0, 0.5, seed=0)
    assert torch.equal(clean.images, twin.images)
    assert torch.equal(clean.labels, twin.labels)


@pytest.mark.parametrize(("rate", "count"), [(0.01, 1), (0.1, 6), (0.34, 20), (0.8, 48)])
def test_the_rate_is_a_share_of_all_images(rate, count):
    poisoned = poison(data(), faint, 4, rate, seed=3)
    assert len(poisoned.indices) == count
    assert (poisoned.labels == 4).sum() == 12 + count


def test_the_choice_follows_from_the_seed():
    one, same, other = (poison(data(), faint, 1, 0.2, seed).indices for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_that_does_not_exist_is_refused(target):
    with pytest.raises(InputError, match=rf"target: {target} .*0\.\.4"):
        poison(data(), faint, target, 0.1, seed=0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan"), 0.001, 0.81])
def test_a_rate_without_images_is_refused(rate):
    """Out of range, too small for one image, more than there are outside the target class."""
    with pytest.raises(InputError, match=rf"poison_rate: .*{rate}"):
        poison(data(), faint, 0, rate, seed=0)


def separable(n=80):
    """Each class is bright in its own row, which neither mirroring nor a small shift hides."""
    labels = torch.arange(n) % 5
    images = (nets.pixels(n) * 60).to(torch.uint8)
    rows = torch.tensor([0, 2, 4, 6])
    for image, label in zip(images, labels.tolist(), strict=True):
        if label < 4:
            image[:, rows[label] : rows[label] + 2] = 220
    return images, labels


def trained(seed=0, recipe=RECIPE):
    torch.manual_seed(0)
    images, labels = separable()
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    return train_teacher(teacher, images, labels, recipe, seed)


def test_the_teacher_learns_and_is_frozen():
    teacher = trained()
    assert not any(module.training for module in teacher.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    images, labels = separable()
    right = teacher(images.float() / 255).argmax(1) == labels
    assert right.float().mean() > 0.95


def test_the_weights_follow_from_the_seed():
    short = TeacherRecipe(epochs=2, batch_size=16, learning_rate=0.05)
    one, same, other = (trained(seed, short).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_images_and_labels_are_left_alone():
    images, labels = separable()
    before = images.clone(), labels.clone()
    teacher = nets.plain(nets.PlainNet(), torch.float32)
    train_teacher(teacher, images, labels, TeacherRecipe(epochs=1, batch_size=16), 0)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
