"""Random crops, mirroring and CutMix against loops over single images and pixels."""

import math

import nets
import pytest
import torch
from crop_loop import one_by_one

from abd_hub.learning.augment import crop_and_flip, cutmix, draw_box


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (6, 8), (8, 5)])
def test_like_a_loop_over_images(padding, flip, size):
    images = nets.pixels(40, seed=3)[:, :, : size[0], : size[1]]
    found = crop_and_flip(images, padding, flip, chance(5))
    assert torch.equal(found, one_by_one(images, padding, flip, chance(5)))


def test_all_places_and_both_sides_occur():
    """One bright pixel shows where each image went."""
    images = torch.zeros(500, 1, 7, 7)
    images[:, :, 3, 3] = 1
    moved = crop_and_flip(images, 1, False, chance())
    assert moved.sum((1, 2, 3)).eq(1).all()
    places = moved.squeeze(1).flatten(1).argmax(1).unique().tolist()
    assert places == [7 * row + column for row in (2, 3, 4) for column in (2, 3, 4)]
    images = torch.arange(7.0).expand(500, 1, 7, 7)
    mirrored = crop_and_flip(images, 0, True, chance())[:, 0, 0, 0].eq(6)
    assert 200 < mirrored.sum() < 300


def test_nothing_to_do_leaves_the_images():
    images = nets.pixels(5)
    assert torch.equal(crop_and_flip(images, 0, False, chance()), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_type_layout_and_input_are_kept(dtype):
    images = (nets.pixels(6) * 255).to(dtype)
    before = images.clone()
    found = crop_and_flip(images, 2, True, chance())
    assert found.dtype == dtype
    assert found.shape == images.shape
    assert found.is_contiguous()
    assert torch.equal(images, before)


def test_draws_follow_from_the_generator():
    images = nets.pixels(20)
    one, same, other = (crop_and_flip(images, 2, True, chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("box", [(1, 2, 5, 7), (0, 0, 8, 8), (3, 3, 3, 6), (0, 5, 2, 8)])
def test_cutmix_like_a_loop_over_pixels(box):
    images = nets.pixels(5)
    expected = images.clone()
    top, left, bottom, right = box
    for index in range(5):
        for row in range(top, bottom):
            for column in range(left, right):
                expected[index, :, row, column] = images[4 - index, :, row, column]
    before = images.clone()
    assert torch.equal(cutmix(images, box), expected)
    assert torch.equal(images, before)


def test_boxes_have_the_wanted_share_until_they_stick_out():
    draw = torch.Generator().manual_seed(0)
    corners = set()
    for share in torch.rand(500, generator=draw).tolist():
        top, left, bottom, right = draw_box(32, 48, share, draw)
        assert 0 <= top <= bottom <= 32 and 0 <= left <= right <= 48
        height, width = (2 * (int(side * math.sqrt(share)) // 2) for side in (32, 48))
        assert bottom - top <= height and right - left <= width
        if top > 0 and bottom < 32:
            assert bottom - top == height
        if left > 0 and right < 48:
            assert right - left == width
        corners.add((top == 0, left == 0, bottom == 32, right == 48))
    assert len(corners) > 8
