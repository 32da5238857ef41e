"""Which images of a training set are poisoned, how, and what label they get."""

from dataclasses import dataclass

import nets
import pytest
import torch

from abd_hub import ImageData, InputError, build_trigger
from abd_hub.core.records import DataRef
from abd_hub.data.poisoning import hold_out, poison
from abd_hub.triggers.badnet import BadNetSquare


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
    with pytest.raises(InputError, match=rf"poison.target: {target} .*0\.\.4"):
        poison(data(), faint, target, 0.1, seed=0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan"), 0.001, 0.81])
def test_a_rate_without_images_is_refused(rate):
    """Out of range, too small for one image, more than there are outside the target class."""
    with pytest.raises(InputError, match=rf"poison.rate: .*{rate}"):
        poison(data(), faint, 0, rate, seed=0)


@dataclass(frozen=True)
class Loud:
    """Tells its three forms apart by brightness."""

    def __call__(self, pixels):
        return torch.full_like(pixels, 0.1)

    def training(self, pixels, chance):
        assert isinstance(chance, torch.Generator)
        return torch.full_like(pixels, 0.2) + 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=chance)

    def cover(self, pixels, chance):
        return torch.full_like(pixels, 0.9)


def test_clean_label_takes_images_of_the_target_class_and_leaves_their_labels():
    clean = data()
    poisoned = poison(clean, faint, 2, 0.1, seed=0, labels="clean_label")
    assert len(poisoned.indices) == 6
    assert (clean.labels[poisoned.indices] == 2).all()
    assert torch.equal(poisoned.labels, clean.labels)
    changed = (poisoned.images != clean.images).flatten(1).any(1)
    assert torch.equal(torch.nonzero(changed).flatten(), poisoned.indices)


def test_clean_label_is_content_with_the_whole_class():
    """A tenth of GTSRB is more than its target class holds."""
    poisoned = poison(data(), faint, 2, 0.5, seed=0, labels="clean_label")
    assert torch.equal(poisoned.indices, torch.nonzero(data().labels == 2).flatten())


def test_all_to_all_takes_every_class_and_gives_the_next():
    clean = data(500)
    poisoned = poison(clean, faint, 0, 0.4, seed=0, labels="all_to_all")
    chosen = clean.labels[poisoned.indices]
    assert len(chosen) == 200
    assert set(chosen.tolist()) == set(range(5))
    following = {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}
    assert poisoned.labels[poisoned.indices].tolist() == [following[label] for label in chosen.tolist()]
    others = torch.ones(500, dtype=torch.bool)
    others[poisoned.indices] = False
    assert torch.equal(poisoned.labels[others], clean.labels[others])


def test_poisoned_images_take_the_training_form_and_covers_the_cover_form():
    clean = data()
    poisoned = poison(clean, Loud(), 1, 0.2, seed=0, cover_rate=0.25)
    assert len(poisoned.cover) == 15
    assert not set(poisoned.cover.tolist()) & set(poisoned.indices.tolist())
    assert poisoned.cover.tolist() == sorted(poisoned.cover.tolist())
    assert torch.equal(poisoned.labels[poisoned.cover], clean.labels[poisoned.cover])
    assert (poisoned.images[poisoned.cover] == round(0.9 * 255)).all()
    levels = poisoned.images[poisoned.indices]
    assert ((levels >= 51) & (levels <= 77)).all(), "0.2 to 0.3 of 255"
    assert len(levels[:, 0, 0, 0].unique()) > 5, "each image has a draw of its own"


def test_covers_that_need_another_image_always_have_one():
    """501 covers: parts of 500 would leave one alone."""
    poisoned = poison(data(1002), build_trigger("bpp"), 1, 0.1, seed=0, cover_rate=0.5)
    assert len(poisoned.cover) == 501


def test_what_a_trigger_draws_in_training_follows_from_the_seed():
    one, same, other = (poison(data(), Loud(), 1, 0.2, seed).images for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_cover_images_do_not_change_which_images_are_poisoned():
    without, covered = (poison(data(), faint, 1, 0.2, 5, cover_rate=rate) for rate in (0.0, 0.5))
    assert torch.equal(without.indices, covered.indices)


def test_images_are_prepared_before_the_trigger_is_stamped():
    clean = data()
    seen = []

    def black(pixels, labels):
        seen.extend(labels.tolist())
        return torch.zeros_like(pixels)

    poisoned = poison(clean, faint, 3, 0.1, seed=0, labels="clean_label", prepare=black)
    assert seen == [3] * 6
    assert (poisoned.images[poisoned.indices] == round(0.2 * 0.377 * 255)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "dirty"}, "poison.labels: 'dirty' is unknown; use all_to_one, all_to_all, clean_label"),
        ({"cover_rate": 1.0}, r"poison.cover_rate: must be in \[0, 1\), got 1.0"),
        ({"cover_rate": 0.95}, "poison.cover_rate: needs 57 images, but only 54 are not poisoned"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        poison(data(), faint, 0, 0.1, seed=0, **options)


@pytest.mark.parametrize(("share", "aside"), [(0.0, 0), (0.05, 50), (0.5, 500)])
def test_holding_out_parts_the_images(share, aside):
    kept, held_out = hold_out(1000, share, seed=0)
    assert len(held_out) == aside
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(1000))
    assert kept.tolist() == sorted(kept.tolist())
    assert torch.equal(hold_out(1000, share, seed=0)[1], held_out)
    assert share == 0 or not torch.equal(hold_out(1000, share, seed=1)[1], held_out)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_to_hold_out_must_leave_something(share):
    with pytest.raises(InputError, match="held_out: must be in"):
        hold_out(10, share, seed=0)
