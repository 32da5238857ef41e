from __future__ import annotations

import copy
import hashlib
import io
import math
import pickle

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from missing import needs_accelerator
from PIL import Image

from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.seeding import generator
from abd_hub.triggers import build_trigger, cover_form, training_form, trigger_sha256

NAMES = [entry.name for entry in registry.catalog("triggers")]
REPLACING = ("badnet_sq", "badnet_grid", "cl", "l0_inv", "picture", "bpp")
SMALL = {
    "badnet_sq": {"size": 2, "margin": 0},
    "trojan_8x8": {"size": 4, "margin": 1},
    "l0_inv": {"length": 8},
}
# How far float32 may be from float64: interpolation multiplies the rounding of a place by a pixel's slope.
FLOAT32 = {"wanet": 1e-5}
GOLDEN = {
    "adaptive_blend": "bae4ccd809f56b738fb419b036c61e63e333ae7b674793471a65072a9dd4f3ff",
    "badnet_grid": "a1154465ab8b815a248670d37744558468e74bffa0dd213654c68b3213787113",
    "badnet_sq": "de73402c87be0f70a842ccd5c5f9411aa802bcec073a4c31ec21c3b13993486d",
    "blend": "a93f5c548fe62149ebdc2b563ecb0e58375014774d5e20997923997b954e865c",
    "bpp": "44b883838d635a4f0234625e312a7194bdea2e1128b5fb00c6618a498ac1d541",
    "cl": "3acc93be016a10350748867b374ab4d6141e78be31e7b9b813115816f1ab201f",
    "l0_inv": "21355b99128d1711e6f60b5c00ac6f3b1c7359828d0fd77248989259360572fd",
    "l2_inv": "0f4d3db9d9d43c0313532e5cd0562e9be3b486900640da18e24b7743ac88c902",
    "picture": "3df3cf7b4975a653660736e554974127fac9c4e03cb58a4be44f699e884bf09c",
    "sig": "bbacec3068f26f0e7305631188854e138c168bbc9401e63667bdc979017e27f3",
    "sinusoid": "5d72369ed0bad99d7ff321fee8f805ebaf8b6cf6444c2da23652f6063179fe46",
    "smooth": "86e57d85f857b1a4d1370dc083cbb2bacc60872ad8444ab80d48c853f66d68e3",
    "trojan_3x3": "98329185aafb6376207be839054aa28e5f4b5dcb208c417a7673b94e81d45363",
    "trojan_8x8": "c3fcefd038532faa595d0c79567f5554d40ea7ecb8c7fcdf374fcb64c347c757",
    "trojan_wm": "fa2dd347d58c2013d59a951eb310b182fbe76d23ad73a7a98b71e8d33e9fa628",
    "wanet": "1cbc63cd6c92c7ad08e582b7559384c75aabc4b1b3820952340edf83d1e19bd2",
}


@pytest.fixture(scope="module")
def sticker(tmp_path_factory):
    """A 32x32 picture file made by integer arithmetic."""
    rows, columns, channels = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    path = tmp_path_factory.mktemp("picture") / "sticker.png"
    Image.fromarray(((rows * 5 + columns * 11 + channels * 70) % 256).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def make(sticker):
    def make(name, **options):
        if name == "picture":
            options = {"file": str(sticker), "mode": "replace", "resize": True, **options}
        return build_trigger(name, options)

    return make


def fixed_images(n=3, height=32, width=32):
    """Images by integer arithmetic, the same everywhere; uint8 (n, 3, height, width)."""
    count = torch.arange(n * 3 * height * width)
    return ((count * 37 + count // 7 * 11) % 256).reshape(n, 3, height, width).to(torch.uint8)


def fixed_pixels(*args, dtype=torch.float32):
    return fixed_images(*args).to(dtype) / 255


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def to_bytes(pixels):
    return (pixels.double() * 255).round().to(torch.uint8)


def test_every_trigger_of_the_rules_is_there():
    rules = "badnet_sq badnet_grid cl blend sig trojan_3x3 trojan_8x8 trojan_wm l0_inv l2_inv smooth"
    later = "wanet bpp adaptive_blend sinusoid picture"
    assert set(NAMES) == {*rules.split(), *later.split()}
    assert all(entry.summary.endswith(".") for entry in registry.catalog("triggers"))


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (48, 40), (64, 33)])
@pytest.mark.parametrize("name", NAMES)
def test_trigger_is_a_pure_function_of_each_image(make, name, size):
    trigger = make(name, **(SMALL.get(name, {}) if size == (8, 8) else {}))
    pixels = fixed_pixels(3, *size)
    before = pixels.clone()
    result = trigger(pixels)
    assert torch.equal(pixels, before), "the input was modified"
    assert result.data_ptr() != pixels.data_ptr()
    assert result.shape == pixels.shape and result.dtype == pixels.dtype
    assert result.min() >= 0 and result.max() <= 1
    assert not torch.equal(result, pixels)
    assert torch.equal(result, trigger(pixels))
    assert torch.equal(result, copy.deepcopy(trigger)(pixels))
    assert torch.equal(result, pickle.loads(pickle.dumps(trigger))(pixels))
    for index in range(3):
        assert torch.equal(result[index : index + 1], trigger(pixels[index : index + 1]))
    assert torch.equal(result.flip(0), trigger(pixels.flip(0)))
    assert trigger(pixels[:0]).shape == pixels[:0].shape
    if name in REPLACING:
        assert torch.equal(trigger(result), result)


@pytest.mark.parametrize("name", NAMES)
def test_trigger_is_stable_over_dtypes(make, name):
    trigger = make(name)
    images = fixed_images()
    exact = trigger(images.double() / 255)
    assert exact.dtype == torch.float64
    slack = FLOAT32.get(name, 1e-6)
    assert torch.allclose(trigger(images.float() / 255).double(), exact, rtol=0, atol=slack)
    for dtype, ulp in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        half = (images.float() / 255).to(dtype)
        result = trigger(half)
        assert result.dtype == dtype
        # Rounded once: no further from the exact answer to the same rounded pixels than half a unit.
        assert (result.double() - trigger(half.double())).abs().max() <= ulp / 2 + slack


@needs_accelerator
@pytest.mark.parametrize("name", NAMES)
def test_trigger_does_the_same_on_an_accelerator(make, name):
    device = torch.accelerator.current_accelerator()
    trigger, pixels = make(name), fixed_pixels(3, 48, 40)
    for form in (
        trigger,
        lambda x: training_form(trigger, x, chance()),
        lambda x: cover_form(trigger, x, chance()),
    ):
        result = form(pixels.to(device))
        assert result.device.type == device.type
        assert torch.allclose(result.cpu(), form(pixels), rtol=0, atol=FLOAT32.get(name, 1e-6))


@pytest.mark.parametrize("form", [training_form, cover_form])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_trigger_trains_with_keeps_to_its_contract(make, name, form):
    trigger = make(name)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        pixels = fixed_pixels(dtype=dtype)
        before = pixels.clone()
        result = form(trigger, pixels, chance())
        assert torch.equal(pixels, before), "the input was modified"
        assert result.shape == pixels.shape and result.dtype == dtype
        assert result.min() >= 0 and result.max() <= 1
        assert not torch.equal(result, pixels)
        assert torch.equal(result, form(trigger, pixels, chance())), "draws from elsewhere than from chance"


@pytest.mark.parametrize("name", NAMES)
def test_trigger_keeps_its_published_look(make, name):
    result = to_bytes(make(name)(fixed_pixels(dtype=torch.float64)))
    assert hashlib.sha256(result.numpy().tobytes()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_trigger_first_used_in_inference_mode_can_train_later(make, name):
    trigger = make(name)
    with torch.inference_mode():
        trigger(fixed_pixels())
    pixels = fixed_pixels().requires_grad_()
    trigger(pixels).square().sum().backward()
    assert pixels.grad is not None


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
        for column, colour in enumerate(cells):
            image[:, :, 25 + row, 25 + column] += torch.tensor(colour)
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
    for offset, colour in enumerate(row):
        want[:, :, 31, 23 + offset] = torch.tensor(colour, dtype=torch.uint8)
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


def test_picture_is_told_apart_by_content(tmp_path):
    path = tmp_path / "p.png"
    triggers = []
    for level in (10, 200):
        Image.new("RGB", (8, 8), (level, level, level)).save(path)
        triggers.append(build_trigger("picture", {"file": str(path), "mode": "replace"}))
    assert triggers[0] != triggers[1] and triggers[0].sha256 != triggers[1].sha256
    results = [to_bytes(trigger(torch.zeros(1, 3, 8, 8))) for trigger in triggers]
    assert results[0].unique().tolist() == [10] and results[1].unique().tolist() == [200]


def test_picture_from_the_hub_is_pinned(monkeypatch, sticker):
    asked = []

    def download(repository, path, revision=None):
        asked.append((repository, path, revision))
        return str(sticker)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for place in ("hf-hub:acme/marks/a/b.png", "hf-hub:acme/marks@v1.0/b.png"):
        build_trigger("picture", {"file": place})
    assert asked == [("acme/marks", "a/b.png", None), ("acme/marks", "b.png", "v1.0")]


def test_picture_from_a_hub_that_cannot_be_reached(monkeypatch):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("An error happened.\nCheck your connection.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(InputError, match=r"'hf-hub:acme/marks/b\.png' cannot be fetched: the Hub cannot"):
        build_trigger("picture", {"file": "hf-hub:acme/marks/b.png"})


def bad_picture(path):
    path.write_bytes(b"not a picture")
    return str(path)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("badnet", {}, "did you mean"),
        ("badnet_sq", {"sise": 2}, "did you mean 'size'"),
        ("badnet_sq", {"size": 0}, "size 0"),
        ("badnet_sq", {"size": 2.5}, "size 2.5"),
        ("badnet_sq", {"size": True}, "size True"),
        ("badnet_sq", {"margin": -1}, "margin -1"),
        ("blend", {"alpha": 0}, "alpha 0"),
        ("blend", {"alpha": 1.5}, "alpha 1.5"),
        ("blend", {"alpha": float("nan")}, "alpha nan"),
        ("blend", {"alpha": "0.2"}, "alpha '0.2'"),
        ("sig", {"amplitude": -20}, "amplitude -20"),
        ("l0_inv", {"length": 10}, "from 1 to 9"),
        ("smooth", {"strength": 256}, "strength 256"),
        ("wanet", {"strength": 0}, "strength 0"),
        ("wanet", {"size": 1}, "size 1"),
        ("bpp", {"bits": 9}, "bits 9 must be a whole number from 1 to 8"),
        ("bpp", {"dithering": 1}, "dithering 1 must be true or false"),
        ("adaptive_blend", {"training_alpha": 2}, "training_alpha 2"),
        ("adaptive_blend", {"side": 0}, "side 0"),
        ("adaptive_blend", {"shown": 17}, "shown 17 must be a whole number from 1 to 16"),
        ("adaptive_blend", {"file": "nowhere.png"}, "'nowhere.png' cannot be read"),
        ("picture", {}, "needs the option 'file'"),
        ("picture", {"file": "nowhere.png"}, "'nowhere.png' cannot be read"),
        ("picture", {"file": "nowhere.png", "mode": "multiply"}, "mode 'multiply'"),
        ("picture", {"file": "nowhere.png", "resize": "yes"}, "resize 'yes'"),
        ("picture", {"file": "nowhere.png", "sha256": "00"}, "'sha256' is unknown"),
        ("picture", {"file": "hf-hub:acme"}, "hf-hub:org/name/path"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as caught:
        build_trigger(name, options)
    assert "\n" not in str(caught.value)


def test_bad_files_are_refused(make, tmp_path):
    broken = bad_picture(tmp_path / "broken.png")
    with pytest.raises(InputError, match="not a picture"):
        build_trigger("picture", {"file": broken})
    with pytest.raises(InputError, match=r"mask .* is not a picture"):
        make("picture", mask=broken)
    with pytest.raises(InputError, match="not an array"):
        make("picture", mask=bad_picture(tmp_path / "broken.npy"))
    np.save(tmp_path / "two.npy", np.full((32, 32), 2.0))
    with pytest.raises(InputError, match=r"numbers in \[0,1\]"):
        make("picture", mask=str(tmp_path / "two.npy"))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="not an array"):
        make("picture", mask=str(tmp_path / "pickle.npy"))


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("badnet_sq", 4, "at least 5x5 but these are 4x4"),
        ("badnet_grid", 2, "at least 3x3 but these are 2x2"),
        ("cl", 5, "at least 6x6 but these are 5x5"),
        ("trojan_3x3", 6, "at least 7x7 but these are 6x6"),
        ("trojan_8x8", 8, "at least 11x11 but these are 8x8"),
        ("l0_inv", 8, "at least 1x9 but these are 8x8"),
    ],
)
def test_a_trigger_larger_than_the_image_is_refused(make, name, size, words):
    with pytest.raises(InputError, match=words):
        make(name)(fixed_pixels(1, size, size))


def test_a_picture_of_another_size_needs_resize(make):
    with pytest.raises(InputError, match="picture is 32x32 but the images are 8x8"):
        make("picture", resize=False)(fixed_pixels(1, 8, 8))


def test_wrong_pixels_are_refused(make):
    with pytest.raises(InputError, match="float pixels"):
        make("badnet_sq")(fixed_images())
    with pytest.raises(InputError, match="float pixels"):
        make("smooth")(fixed_pixels()[0])
    with pytest.raises(InputError, match="3 channels, these have 1"):
        make("blend")(fixed_pixels()[:, :1])
    assert make("sig")(fixed_pixels()[:, :1]).shape == (3, 1, 32, 32)


def test_a_plain_function_can_be_a_trigger(monkeypatch):
    monkeypatch.setitem(registry._registered["triggers"], "invert", invert)
    trigger = build_trigger("invert")
    assert torch.equal(trigger(torch.zeros(1, 3, 4, 4)), torch.ones(1, 3, 4, 4))
    with pytest.raises(InputError, match="takes none"):
        build_trigger("invert", {"alpha": 1})


def invert(pixels):
    """Negative of the image."""
    return 1 - pixels


class Stronger:
    """A trigger whose poisoned training images and covers are unlike its test form."""

    def __call__(self, pixels):
        return pixels * 0

    def training(self, pixels, chance):
        return pixels * 0 + torch.rand(len(pixels), 1, 1, 1, generator=chance)

    def cover(self, pixels, chance):
        return 1 - self.training(pixels, chance)


class Darkening(torch.nn.Module):
    """Has ``training``, but as a torch module has it: a flag."""

    def forward(self, pixels):
        return pixels / 2


def test_training_and_cover_forms_are_the_triggers_own():
    pixels, draws = fixed_pixels(), torch.rand(3, 1, 1, 1, generator=chance())
    assert torch.equal(training_form(Stronger(), pixels, chance()), draws.expand_as(pixels))
    assert torch.equal(cover_form(Stronger(), pixels, chance()), 1 - draws.expand_as(pixels))


@pytest.mark.parametrize("trigger", [invert, Darkening(), Darkening().eval()])
def test_a_trigger_without_forms_of_its_own_stands_for_itself(trigger):
    pixels = fixed_pixels()
    for form in (training_form, cover_form):
        assert torch.equal(form(trigger, pixels, chance()), trigger(pixels))


def test_the_hash_of_a_trigger_tells_what_it_does(make):
    hashes = [trigger_sha256(make(name), 3, 32, 32) for name in NAMES]
    hashes += [trigger_sha256(make("blend", seed=1), 3, 32, 32), trigger_sha256(make("cl"), 3, 16, 16)]
    hashes += [trigger_sha256(make("cl"), 1, 32, 32)]
    assert len(set(hashes)) == len(hashes)
    assert all(len(digest) == 64 for digest in hashes)
    # However it is spelt.
    assert trigger_sha256(make("badnet_sq"), 3, 32, 32) == trigger_sha256(
        make("badnet_sq", size=4), 3, 32, 32
    )
    with pytest.raises(InputError, match="at least 5x5"):
        trigger_sha256(make("badnet_sq"), 3, 4, 4)


def test_the_hash_of_a_trigger_stays(make):
    # It stands in the records of poisoned teachers: a change here orphans them.
    want = "d4a6f6f34055e9a95183e655c73347314a5ae1b7c9dfe646a1e5f19813d06ba4"
    assert trigger_sha256(make("badnet_sq"), 3, 32, 32) == want
