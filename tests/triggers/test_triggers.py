from __future__ import annotations

import copy
import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from fixed_images import chance, fixed_images, fixed_pixels, to_bytes
from missing import needs_accelerator
from PIL import Image

from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.triggers import build_trigger, cover_form, training_form, trigger_sha256

NAMES = [entry.name for entry in registry.catalog("triggers")]
# Triggers that give the same image when they are applied twice.
REPLACING = ("badnet_sq", "badnet_grid", "cl", "l0_inv", "picture", "bpp")
# Options with which a trigger fits on images of 8x8.
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


def test_every_trigger_of_the_rules_is_there():
    rules = "badnet_sq badnet_grid cl blend sig trojan_3x3 trojan_8x8 trojan_wm l0_inv l2_inv smooth"
    assert set(NAMES) >= set(rules.split())
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
    found = hashlib.sha256(result.numpy().tobytes()).hexdigest()
    assert GOLDEN.get(name) == found, f'for a new trigger put this line into GOLDEN: "{name}": "{found}",'


@pytest.mark.parametrize("name", NAMES)
def test_a_trigger_first_used_in_inference_mode_can_train_later(make, name):
    trigger = make(name)
    with torch.inference_mode():
        trigger(fixed_pixels())
    pixels = fixed_pixels().requires_grad_()
    trigger(pixels).square().sum().backward()
    assert pixels.grad is not None


def test_picture_is_told_apart_by_content(tmp_path):
    path = tmp_path / "p.png"
    triggers = []
    for level in (10, 200):
        Image.new("RGB", (8, 8), (level, level, level)).save(path)
        triggers.append(build_trigger("picture", {"file": str(path), "mode": "replace"}))
    assert triggers[0] != triggers[1] and triggers[0].sha256 != triggers[1].sha256
    results = [to_bytes(trigger(torch.zeros(1, 3, 8, 8))) for trigger in triggers]
    assert results[0].unique().tolist() == [10] and results[1].unique().tolist() == [200]


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
        ("picture", {"file": "hf-hub:acme"}, "use the form hf://"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as caught:
        build_trigger(name, options)
    assert "\n" not in str(caught.value)


def test_bad_files_are_refused(make, tmp_path):
    broken = bad_picture(tmp_path / "broken.png")
    with pytest.raises(InputError, match="is no picture"):
        build_trigger("picture", {"file": broken})
    with pytest.raises(InputError, match=r"mask .* is no picture"):
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


def npy(header, body=b""):
    """A .npy file whose header may be anything."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + body


def zipped():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros((32, 32)))
    return stream.getvalue()


HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy("(" * 300), "is not an array of numbers"),
        (npy("{'descr': 1"), "is not an array of numbers"),
        (npy("x" * 20_000), "is not an array of numbers"),
        (zipped(), "is not an array of numbers"),
        (npy(HEADER.format("|O", "(4,)"), b"cos"), "is not an array of numbers"),
        (npy(HEADER.format("<f8", "(99999, 99999)")), "is not an array of numbers"),
        (npy(HEADER.format("|u1", "(1, 15000, 15000)"), bytes(225_000_000)), "has 225,000,000 numbers; use"),
        (npy(HEADER.format("<f8", "(0, 8)")), r"must be \(H, W\) or \(C, H, W\)"),
        (npy(HEADER.format("<f8", "(1, 1)"), np.array(np.nan).tobytes()), r"must be \(H, W\)"),
    ],
)
def test_hostile_masks(make, tmp_path, content, words):
    (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        make("picture", mask=str(tmp_path / "mask.npy"))
    assert "\n" not in str(caught.value)


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
