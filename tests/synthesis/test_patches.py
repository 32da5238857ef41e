"""Patches of photographs and their colors equal the results of Pillow and torchvision."""

import math

import nets
import numpy as np
import pytest
import torch
from noise_pictures import noise
from PIL import Image
from torchvision.transforms import v2

from abd_hub.synthesis import patches as recipe
from abd_hub.synthesis.color import BRIGHTNESS, CONTRAST, HUE, SATURATION, ColorDraws, jitter
from abd_hub.synthesis.patches import draw_patches, make_patches

CPU = torch.device("cpu")


def adjusted(image, colors, index):
    """Torchvision's color operations, one after the other, on one image."""
    functions = {
        BRIGHTNESS: v2.functional.adjust_brightness,
        CONTRAST: v2.functional.adjust_contrast,
        SATURATION: v2.functional.adjust_saturation,
        HUE: v2.functional.adjust_hue,
    }
    for step in colors.order[index].tolist() if colors.applied[index] else []:
        image = functions[step](image, float(colors.factors[index, step]))
    return image


def one_patch(picture, draws, index, size):
    """The published recipe for one image: Pillow crops and resizes, torchvision turns and recolors."""
    top, left, height, width = draws.boxes[index].tolist()
    frame = [int(math.sqrt(2) * side) for side in size]
    channels = []
    for channel in picture.float().div(255).numpy():
        crop = Image.fromarray(channel).crop((left, top, left + width, top + height))
        channels.append(np.array(crop.resize(frame[::-1], Image.Resampling.BICUBIC)))
    image = torch.from_numpy(np.stack(channels)).clamp(0, 1)
    image = v2.functional.affine(
        image,
        angle=math.degrees(float(draws.turns[index])),
        translate=[0, 0],
        scale=1.0,
        shear=[math.degrees(float(draws.shears[index])), 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    rows, columns = ((side - wanted) // 2 for side, wanted in zip(frame, size, strict=True))
    image = image[:, rows : rows + size[0], columns : columns + size[1]]
    if draws.mirrored[index]:
        image = image.flip(2)
    return adjusted(image, draws.colors, index)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_patches_are_those_of_pillow_and_torchvision(size):
    picture = noise(150, 200)
    made = make_patches([picture], 60, (3, *size), 5, CPU)
    draws = draw_patches(150, 200, 60, 5, 0)
    assert made.dtype == torch.uint8 and made.shape == (60, 3, *size)
    expected = torch.stack([one_patch(picture, draws, index, size) for index in range(60)])
    # half a level from rounding, a little from float32
    torch.testing.assert_close(made.float() / 255, expected, atol=0.51 / 255, rtol=0)


def test_boxes_that_shrink_much_are_taken_from_a_halved_picture_without_harm():
    picture = noise(640, 700)
    draws = draw_patches(640, 700, 40, 1, 0)
    # begins and ends on pixels of the halved picture; Pillow takes the same box from the whole one
    halvings = ((draws.boxes[:, 2:].amin(dim=1) / 22).log2().floor() - 1).clamp(min=0).long()
    assert halvings.bincount().tolist() == [5, 9, 26], "none, once and twice"
    draws.boxes.copy_(draws.boxes >> halvings[:, None] << halvings[:, None])
    made = make_patches([picture], 40, (3, 16, 16), 1, CPU).float() / 255
    expected = torch.stack([one_patch(picture, draws, index, (16, 16)) for index in range(40)])
    assert (made - expected).abs().mean() < 0.6 / 255
    assert (made - expected).abs().max() < 8 / 255


def test_gray_patches_are_the_luma_of_the_colored_ones():
    picture = noise(100, 100)
    color = make_patches([picture], 10, (3, 16, 16), 0, CPU).double()
    gray = make_patches([picture], 10, (1, 16, 16), 0, CPU).double()
    luma = 0.299 * color[:, :1] + 0.587 * color[:, 1:2] + 0.114 * color[:, 2:]
    assert (gray - luma).abs().max() <= 1


def test_patches_follow_from_seed_and_pictures(monkeypatch):
    pictures = [noise(80, 100, seed) for seed in (0, 1)]
    first = make_patches(pictures, 31, (3, 16, 16), 3, CPU)
    assert torch.equal(first, make_patches(pictures, 31, (3, 16, 16), 3, CPU))
    assert not torch.equal(first, make_patches(pictures, 31, (3, 16, 16), 4, CPU))
    assert not torch.equal(first, make_patches(pictures[::-1], 31, (3, 16, 16), 3, CPU))
    monkeypatch.setattr(recipe, "_CHUNK", 3 * 22 * 22 * 5)
    assert torch.equal(first, make_patches(pictures, 31, (3, 16, 16), 3, CPU))


def test_pictures_give_equal_parts():
    red, blue = torch.zeros(2, 3, 80, 80, dtype=torch.uint8)
    red[0], blue[2] = 255, 255
    made = make_patches([red, blue], 41, (3, 8, 8), 0, CPU).float().mean(dim=(2, 3))
    assert (made[::2, 0] > made[::2, 2]).all() and (made[1::2, 2] > made[1::2, 0]).all()


def test_boxes_have_every_scale_shape_and_place():
    height, width, side = 300, 400, 150
    top, left, rows, columns = draw_patches(height, width, 20_000, 0, 0).boxes.double().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + rows).max() == height and (left + columns).max() == width
    assert top.min() == 0 and left.min() == 0
    assert max(rows.max(), columns.max()) <= side
    share = rows * columns / side**2
    assert share.min() < 0.005 and share.max() > 0.97
    # uniform but for the largest, which are drawn again where they stick out
    for low in (0.0, 0.2, 0.4):
        assert ((share > low) & (share < low + 0.2)).double().mean() == pytest.approx(0.2 / 0.88, abs=0.015)
    aspect = (columns / rows)[rows > 60]
    assert 0.72 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.38
    assert aspect.log().mean().abs() < 0.01


def test_draws_have_the_published_ranges():
    draws = draw_patches(100, 100, 20_000, 0, 0)
    for angle in (draws.turns, draws.shears):
        assert angle.rad2deg().abs().max() < 30.001 and angle.rad2deg().std() == pytest.approx(
            30 / 3**0.5, rel=0.02
        )
    assert draws.mirrored.float().mean() == pytest.approx(0.5, abs=0.02)
    assert draws.colors.applied.float().mean() == pytest.approx(0.5, abs=0.02)
    low, high = draws.colors.factors.aminmax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=1e-3, rtol=0)
    assert len({tuple(order) for order in draws.colors.order.tolist()}) == 24


def only(step, factors):
    """Draws that change one thing only, by these factors."""
    count = len(factors)
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64).repeat(count, 1)
    neutral[:, step] = torch.tensor(factors, dtype=torch.float64)
    return ColorDraws(neutral, torch.arange(4).repeat(count, 1), torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize("step", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
def test_each_color_step_is_torchvisions(step):
    factors = [-0.5, -0.1, 0.05, 0.5] if step == HUE else [0.0, 0.6, 1.0, 1.4]
    images = nets.pixels(4, seed=2)
    draws = only(step, factors)
    expected = torch.stack([adjusted(images[index], draws, index) for index in range(4)])
    # torchvision's luma has four digits, 0.2989 for red
    torch.testing.assert_close(jitter(images.clone(), draws), expected, atol=2e-4, rtol=0)


def test_known_colors():
    red, gray = torch.tensor([1.0, 0, 0]), torch.full((3,), 0.3)
    images = torch.stack([red, red, gray]).double().view(3, 3, 1, 1).expand(3, 3, 2, 2).clone()
    turned = jitter(images, only(HUE, [1 / 3, -1 / 6, 0.1]))
    expected = torch.tensor([[0, 1, 0], [1, 0, 1], [0.3, 0.3, 0.3]]).double()
    torch.testing.assert_close(turned[:, :, 0, 0], expected)


def test_images_that_are_not_chosen_keep_their_colors():
    images = nets.pixels(4)
    draws = only(BRIGHTNESS, [0.5] * 4)
    draws.applied[1] = False
    changed = jitter(images.clone(), draws)
    assert [torch.equal(a, b) for a, b in zip(changed, images, strict=True)] == [False, True, False, False]
