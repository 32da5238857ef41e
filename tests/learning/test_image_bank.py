"""The bank of synthetic images: bounded, uint8, restored as it was."""

import nets
import pytest
import torch

from abd_hub import InputError
from abd_hub.core import seeding
from abd_hub.learning.image_bank import DeviceImageBank

CPU = torch.device("cpu")


def filled(capacity, *sizes):
    """A bank, and all that was ever added, in order."""
    bank = DeviceImageBank(nets.SPEC, capacity, CPU)
    pixels = nets.pixels(sum(sizes))
    labels = torch.arange(sum(sizes)) % 5
    for part, label in zip(pixels.split(sizes), labels.split(sizes), strict=True):
        bank.add(part, label)
    return bank, pixels, labels


def as_set(images, labels):
    return {(tuple(i.flatten().tolist()), int(label)) for i, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("sizes", [(3,), (4, 4), (10,), (4, 4, 4), (25,), (3, 25, 4)])
def test_holds_the_newest_images_with_their_labels(sizes):
    bank, pixels, labels = filled(10, *sizes)
    rounded = torch.floor(pixels * 255 + 0.5).to(torch.uint8)
    assert len(bank) == min(10, sum(sizes))
    assert bank.images.dtype == torch.uint8
    assert as_set(bank.images, bank.labels) == as_set(rounded[-10:], labels[-10:])


def test_pixels_are_what_was_added_to_half_a_gray_level():
    bank, pixels, _ = filled(10, 4)
    found = bank.pixels(torch.tensor([2, 0]))
    assert found.dtype == torch.float32
    assert (found - pixels[[2, 0]]).abs().max() <= 0.5 / 255 + 1e-7
    bank.add(torch.tensor([-0.2, 1.3]).view(2, 1, 1, 1).expand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert bank.pixels(torch.tensor([4, 5])).flatten(1).mean(1).tolist() == [0.0, 1.0]


def test_draws_without_repetition_where_there_are_enough():
    bank, _, _ = filled(10, 8)
    draws = [bank.draw(6, seeding.generator(0, "draw", index)) for index in range(50)]
    assert all(len(set(draw.tolist())) == 6 for draw in draws)
    assert set(torch.cat(draws).tolist()) == set(range(8))
    more = bank.draw(100, seeding.generator(0, "draw"))
    assert more.shape == (100,)
    assert set(more.tolist()) == set(range(8))


def test_a_restored_bank_goes_on_as_the_first():
    bank, pixels, labels = filled(10, 4, 9)
    other = DeviceImageBank(nets.SPEC, 10, CPU)
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.add(pixels[:3], labels[:3])
    assert torch.equal(bank.images, other.images)
    assert torch.equal(bank.labels, other.labels)


def test_an_empty_bank_is_refused():
    with pytest.raises(InputError, match="bank_size: must be at least 1, got 0"):
        DeviceImageBank(nets.SPEC, 0, CPU)
