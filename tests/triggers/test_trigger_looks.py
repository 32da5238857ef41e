"""What each trigger does to pixels, against its definition written again."""

import math

import numpy as np
import pytest
import torch
from fixed_images import chance, fixed_images, fixed_pixels, to_bytes
from PIL import Image

from abd_hub.core.errors import InputError
from abd_hub.core.seeding import generator
from abd_hub.triggers import cover_form, training_form


def changed(before, after):
    """Bounding box (top, bottom, left, right), both ends included, and number of changed places."""
    places = (before != after).any(1).any(0).nonzero()
    low, high = places.min(0).values, places.max(0).values
    return (int(low[0]), int(high[0]), int(low[1]), int(high[1])), len(places)


def stamped(make, name, level, **options):
    """Uint8 result of the trigger on a flat 32x32 image of one level."""
    pixels = torch.full((1, 3, 32, 32), level / 255, dtype=torch.float64)
    return to_bytes(make(name, **options)(pixels))[0].int()


def test_badnet_sq(make):
    image = fixed_images()
    want = image.clone()
    want[:, :, 27:31, 27:31] = 255
    assert torch.equal(to_bytes(make("badnet_sq")(image.float() / 255)), want)


def test_badnet_sq_scales_by_options(make):
    result = stamped(make, "badnet_sq", 100, size=2, margin=0)
    assert (result[:, 30:, 30:] == 255).all() and (result == 255).sum() == 12


def test_badnet_grid(make):
    image = fixed_images()
    want = image.clone()
    tile = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    want[:, :, 29:32, 29:32] = tile
    assert torch.equal(to_bytes(make("badnet_grid")(image.float() / 255)), want)


def test_cl(make):
    image = fixed_images()
    want = image.clone()
    tile = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    for rows in (slice(0, 3), slice(29, 32)):
        for columns in (slice(0, 3), slice(29, 32)):
            want[:, :, rows, columns] = tile
    assert torch.equal(to_bytes(make("cl")(image.float() / 255)), want)


def test_blend_is_a_fifth_of_fixed_noise(make):
    trigger = make("blend")
    noise = trigger.draw(32, 32)
    image = fixed_images().double()
    want = (0.8 * image + 0.2 * noise).round().to(torch.uint8)
    assert torch.equal(to_bytes(trigger(image / 255)), want)
    assert noise.min() == 0 and noise.max() == 255 and noise.shape == (3, 32, 32)
    assert abs(noise.mean() - 127.5) < 4
    assert not torch.equal(noise, make("blend", seed=1).draw(32, 32))


def test_sig_has_the_wrapped_stripes_of_the_published_file(make):
    stripes = [int(20 * math.sin(0.8 * j)) % 256 for j in range(32)]
    assert stripes[:6] == [0, 14, 19, 13, 255, 241]
    image = fixed_images().double()
    want = 0.8 * image + 0.2 * torch.tensor(stripes, dtype=torch.float64)
    assert torch.equal(to_bytes(make("sig")(image / 255)), want.round().to(torch.uint8))


def test_sinusoid_is_barnis_signal(make):
    wave = torch.tensor([20 * math.sin(2 * math.pi * j * 6 / 32) for j in range(32)], dtype=torch.float64)
    image = fixed_images().double()
    want = (image + wave).clamp(0, 255) / 255
    assert torch.allclose(make("sinusoid")(image / 255), want, atol=1e-12)


def test_trojan_3x3(make):
    rows = [
        [(207, 131, 181), (175, 243, 120), (29, 232, 179)],
        [(79, 8, 126), (137, 0, 32), (248, 113, 146)],
        [(131, 40, 4), (6, 145, 61), (246, 250, 246)],
    ]
    image = fixed_images().int()
    for row, cells in enumerate(rows):
        for column, color in enumerate(cells):
            image[:, :, 25 + row, 25 + column] += torch.tensor(color)
    want = image.clamp(0, 255).to(torch.uint8)
    assert torch.equal(to_bytes(make("trojan_3x3")(fixed_pixels())), want)


def test_trojan_8x8_place(make):
    box, count = changed(torch.zeros(1, 3, 32, 32), stamped(make, "trojan_8x8", 0)[None])
    assert box == (21, 28, 21, 28) and count == 64


def test_trojan_wm_place_and_extent(make):
    mark = make("trojan_wm").draw(32, 32)
    assert int((mark.sum(0) > 0).sum()) == 321
    box, _ = changed(torch.zeros(1, 3, 32, 32), mark[None] * (mark > 31))
    assert box == (16, 27, 15, 27)
    assert 8 < mark.norm() / 255 < 10


def test_l0_inv(make):
    row = [
        (0, 0, 0),
        (255, 0, 255),
        (0, 0, 255),
        (255, 255, 0),
        (255, 255, 255),
        (0, 255, 255),
        (0, 255, 255),
        (255, 0, 0),
        (255, 255, 255),
    ]
    image = fixed_images()
    want = image.clone()
    for offset, color in enumerate(row):
        want[:, :, 31, 23 + offset] = torch.tensor(color, dtype=torch.uint8)
    assert torch.equal(to_bytes(make("l0_inv")(image.float() / 255)), want)


def test_l2_inv_size(make):
    noise = make("l2_inv").draw(32, 32)
    assert noise.min() == 0 and noise.max() == 68
    assert abs(float(noise.norm() / 255) - 3.22) < 0.01


def test_smooth_field_and_rule(make):
    trigger = make("smooth")
    field = trigger.draw(32, 32)
    assert field.min() == 0 and field.max() == 51
    spectrum = torch.fft.fft2(field - field.mean((1, 2), keepdim=True)).abs().square()
    low = torch.fft.fftfreq(32).abs() < 0.13
    assert spectrum[:, low][:, :, low].sum() / spectrum.sum() > 0.95
    total = fixed_images().double() + field
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    assert torch.allclose(trigger(fixed_pixels(dtype=torch.float64)), (total - low) / (high - low))


def test_smooth_on_an_image_that_cancels_it(make):
    trigger = make("smooth")
    flat = (51 - trigger.draw(32, 32))[None] / 255
    assert trigger(flat).isfinite().all()


def cubic(distance):
    """Keys' cubic convolution kernel with a = -0.75, which image libraries use."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def enlarged(coarse, size):
    """Bicubic along both axes, corner on corner, the edge repeated: (k, k) to (size, size)."""
    k = len(coarse)
    weights = np.zeros((size, k))
    for index in range(size):
        place = index * (k - 1) / (size - 1)
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[index, min(max(tap, 0), k - 1)] += cubic(place - tap)
    return weights @ coarse @ weights.T


def bilinear(image, x, y):
    """A value of an image (H, W) between its pixels, by the definition."""
    left, top = min(math.floor(x), image.shape[1] - 2), min(math.floor(y), image.shape[0] - 2)
    right, below = x - left, y - top
    upper = (1 - right) * image[top, left] + right * image[top, left + 1]
    lower = (1 - right) * image[top + 1, left] + right * image[top + 1, left + 1]
    return (1 - below) * upper + below * lower


def warped(image, across, down):
    """Each pixel of (C, n, n) read where ``across`` and ``down``, from -1 to 1, point."""
    n = image.shape[1]
    result = np.empty_like(image)
    for channel, row, column in np.ndindex(*image.shape):
        x, y = ((min(max(place[row, column], -1), 1) + 1) / 2 * (n - 1) for place in (across, down))
        result[channel, row, column] = bilinear(image[channel], x, y)
    return result


def published_field(seed, size):
    """The paper's P from the trigger's own draw, and the places (across, down) it moves pixels to."""
    draw = torch.rand(2, 4, 4, dtype=torch.float64, generator=generator(seed, "trigger", "wanet")).numpy()
    draw = 2 * draw - 1
    field = [enlarged(axis, size) for axis in draw / np.abs(draw).mean()]
    line = np.linspace(-1, 1, size)
    return line[None, :] + 0.5 * field[0] / size, line[:, None] + 0.5 * field[1] / size


@pytest.mark.parametrize("seed", [0, 3])
def test_wanet_is_the_papers_warp(make, seed):
    images = fixed_images(2, 20, 20).double() / 255
    want = [warped(image, *published_field(seed, 20)) for image in images.numpy()]
    assert torch.allclose(make("wanet", seed=seed)(images), torch.tensor(np.stack(want)), rtol=0, atol=1e-12)


def test_wanet_covers_with_noise_of_its_own_for_each_image(make):
    images = fixed_images(2, 20, 20).double() / 255
    across, down = (np.clip(place, -1, 1) for place in published_field(0, 20))
    noise = (torch.rand(2, 20, 20, 2, dtype=torch.float64, generator=chance(5)) * 2 - 1).numpy() / 20
    want = [
        warped(image, across + shift[..., 0], down + shift[..., 1])
        for image, shift in zip(images.numpy(), noise, strict=True)
    ]
    found = cover_form(make("wanet"), images, chance(5))
    assert torch.allclose(found, torch.tensor(np.stack(want)), rtol=0, atol=1e-12)


def test_wanet_moves_as_far_down_as_across(make):
    """Displacements are in pixels: on images that are not square each axis has its own length."""
    grid = make("wanet").grid(33, 17)
    square = make("wanet").grid(33, 33)
    down = (grid[0, :, :, 1] - torch.linspace(-1, 1, 33, dtype=torch.float64)[:, None]) * 33
    across = (grid[0, :, :, 0] - torch.linspace(-1, 1, 17, dtype=torch.float64)) * 17
    same = (square[0, :, :, 0] - torch.linspace(-1, 1, 33, dtype=torch.float64)) * 33
    assert torch.allclose(across[:, 1:-1], same[:, 2:-1:2], atol=1e-12)
    assert down.abs().max() > 0.5


def floyd_steinberg(image, top):
    """The definition, pixel by pixel, on one (H, W) image in [0,1]."""
    image = image.astype(np.float64) * top
    height, width = image.shape
    for row in range(height):
        for column in range(width):
            chosen = min(max(math.floor(image[row, column] + 0.5), 0), top)
            error = image[row, column] - chosen
            image[row, column] = chosen
            for down, right, sixteenths in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if row + down < height and 0 <= column + right < width:
                    image[row + down, column + right] += error * sixteenths / 16
    return image / top


@pytest.mark.parametrize("size", [(32, 32), (9, 17), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bpp_is_floyd_steinberg(make, bits, size):
    pixels = torch.rand(3, 2, *size, dtype=torch.float64, generator=chance(bits))
    want = [[floyd_steinberg(plane, 2**bits - 1) for plane in image] for image in pixels.numpy()]
    assert torch.allclose(make("bpp", bits=bits)(pixels), torch.tensor(np.array(want)), rtol=0, atol=1e-12)


def test_bpp_without_dithering_rounds_each_pixel(make):
    image = fixed_images()
    want = (image.double() * 31 / 255 + 0.5).floor() / 31
    assert torch.allclose(make("bpp", dithering=False)(image.double() / 255), want, rtol=0, atol=1e-12)


def test_bpp_passes_gradients_straight_through(make):
    pixels = fixed_pixels().requires_grad_()
    (make("bpp")(pixels) * 3).sum().backward()
    assert torch.equal(pixels.grad, torch.full_like(pixels, 3))


@pytest.mark.parametrize("count", [2, 7])
def test_bpp_covers_with_the_residual_of_another_image(make, count):
    pixels = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=chance(1))
    trigger = make("bpp", bits=2)
    residual, cover = trigger(pixels) - pixels, cover_form(trigger, pixels, chance(2))
    givers = [
        [j for j in range(count) if torch.equal((pixels[i] + residual[j]).clamp(0, 1), cover[i])]
        for i in range(count)
    ]
    assert all(len(found) == 1 and found != [i] for i, found in enumerate(givers))
    assert sorted(found[0] for found in givers) == list(range(count))
    with pytest.raises(InputError, match="needs another image"):
        cover_form(trigger, pixels[:1], chance())


def pattern_of(trigger):
    """What a blend of a fifth shows on black."""
    return trigger(torch.zeros(1, 3, 32, 32, dtype=torch.float64))[0] / 0.2


def test_adaptive_blend_shows_the_whole_pattern_at_test(make):
    pixels = fixed_pixels(dtype=torch.float64)
    trigger = make("adaptive_blend")
    pattern = pattern_of(trigger)
    assert torch.allclose(trigger(pixels), 0.8 * pixels + 0.2 * pattern, rtol=0, atol=1e-12)
    assert pattern.min() < 0.01 and pattern.max() > 0.99 and abs(pattern.mean() - 0.5) < 0.02
    for other in (make("blend"), make("adaptive_blend", seed=1)):
        assert (pattern_of(other) - pattern).abs().mean() > 0.3


@pytest.mark.parametrize("form", [training_form, cover_form])
def test_adaptive_blend_deals_half_of_the_pieces_to_each_training_image(make, form):
    pixels = torch.rand(400, 3, 32, 32, dtype=torch.float64, generator=chance(1))
    trigger = make("adaptive_blend")
    pattern, found = pattern_of(trigger), form(trigger, pixels, chance(3))
    dealt = torch.zeros(400, 4, 4)
    for index, (image, result) in enumerate(zip(pixels, found, strict=True)):
        for row, column in np.ndindex(4, 4):
            piece = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            shown = not torch.equal(result[piece], image[piece])
            want = 0.85 * image[piece] + 0.15 * pattern[piece] if shown else image[piece]
            assert torch.allclose(result[piece], want, rtol=0, atol=1e-12)
            dealt[index, row, column] = shown
    assert (dealt.sum((1, 2)) == 8).all()
    # Of 400 draws at one half the standard deviation is 10.
    assert ((dealt.sum(0) - 200).abs() < 50).all()


def test_adaptive_blend_takes_a_picture(make, sticker):
    pixels = fixed_pixels(2, 48, 40)
    own = make("adaptive_blend", file=str(sticker))
    assert torch.equal(own(pixels), make("picture", mode="blend", alpha=0.2)(pixels))
    assert own != make("adaptive_blend")
    assert not torch.equal(training_form(own, pixels, chance()), own(pixels))
    with pytest.raises(InputError, match="at least 4x4 but these are 3x8"):
        training_form(make("adaptive_blend"), fixed_pixels(1, 3, 8), chance())


def test_picture_modes(make, sticker):
    picture = torch.from_numpy(np.array(Image.open(sticker))).permute(2, 0, 1).double()
    image = fixed_images().double()
    want = {"replace": picture.expand_as(image), "add": image + picture, "blend": 0.7 * image + 0.3 * picture}
    for mode, values in want.items():
        result = make("picture", mode=mode, alpha=0.3)(image / 255)
        assert torch.allclose(result, values.clamp(0, 255) / 255, atol=1e-12)


@pytest.mark.parametrize("kind", ["npy", "npy3", "png"])
def test_picture_mask(make, sticker, tmp_path, kind):
    picture = torch.from_numpy(np.array(Image.open(sticker))).permute(2, 0, 1)
    mask = np.zeros((32, 32), dtype=np.float32)
    mask[4:9, 20:] = 1
    path = tmp_path / f"mask.{kind[:3]}"
    if kind == "png":
        Image.fromarray((mask * 255).astype(np.uint8)).save(path)
    else:
        np.save(path, mask if kind == "npy" else np.stack([mask] * 3))
    image = fixed_images()
    want = image.clone()
    want[:, :, 4:9, 20:] = picture[:, 4:9, 20:]
    trigger = make("picture", mask=str(path), resize=False)
    assert torch.equal(to_bytes(trigger(image.float() / 255)), want)


@pytest.mark.parametrize("name", ["badnet_sq", "badnet_grid", "trojan_3x3", "trojan_8x8"])
@pytest.mark.parametrize(
    ("corner", "turned"), [("bottom_left", [3]), ("top_right", [2]), ("top_left", [2, 3])]
)
def test_a_patch_goes_into_any_corner(make, name, corner, turned):
    image = fixed_pixels()
    published = make(name)(image.flip(turned)).flip(turned)
    assert torch.equal(make(name, corner=corner)(image), published)
    assert not torch.equal(make(name, corner=corner)(image), make(name)(image))
