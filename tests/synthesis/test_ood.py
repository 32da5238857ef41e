"""Patches of photographs against Pillow, torchvision and plain loops; pictures that are refused."""

import math
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, PartialState
from crop_loop import one_by_one
from launcher import torchrun
from PIL import Image
from tiny_teacher import save_teacher
from torchvision.transforms import v2
from two_processes_ood import trainer, two_batches

from abd_hub import Classifier, DataSpec, InputError, Ood, Trainer, TrainerOptions
from abd_hub.cli import main
from abd_hub.core import seeding
from abd_hub.core.record_file import read_record
from abd_hub.learning import checkpoint
from abd_hub.learning.augment import cutmix, draw_box
from abd_hub.synthesis import patches as recipe
from abd_hub.synthesis.color import BRIGHTNESS, CONTRAST, HUE, SATURATION, ColorDraws, jitter
from abd_hub.synthesis.patches import draw_patches, make_patches
from abd_hub.synthesis.photographs import load

SUPPORT = Path(__file__).parents[1] / "support"
CPU = torch.device("cpu")
QUIET = TrainerOptions(progress=False, checkpoint_every=0)


@pytest.fixture(autouse=True)
def own_accelerator():
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


def noise(height, width, seed=0):
    """A picture with detail at every scale, uint8 (3, H, W)."""
    draw = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, height, width)
    for cell in (4, 16, 64):
        rough = torch.rand(1, 3, height // cell + 2, width // cell + 2, generator=draw)
        picture += F.interpolate(rough, scale_factor=cell, mode="bicubic")[0, :, :height, :width] / 3
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def save(path, height=80, width=100, seed=0):
    Image.fromarray(noise(height, width, seed).permute(1, 2, 0).numpy()).save(path)
    return str(path)


# ------------------------------------------------------------------------------------------- the patches


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


# ---------------------------------------------------------------------------------------------- CutMix


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


# ------------------------------------------------------------------------------------- the method at work


def paper_batch(patches, method, batch, seed):
    """One batch, image by image and pixel by pixel, from the draws of the seed."""
    sequence = []
    for epoch in range(20):
        draw = seeding.generator(seed, "ood", "epoch", epoch)
        sequence += torch.randperm(len(patches), generator=draw).tolist()
    size = method.batch_size
    images = patches[sequence[batch * size : (batch + 1) * size]].double() / 255
    draw = seeding.generator(seed, "ood", "augment", batch)
    images = one_by_one(images, method.crop_padding, method.flip, draw)
    if not method.cutmix:
        return images
    with seeding.seeded(seed, "ood", "cutmix", batch):
        a = torch.tensor(method.cutmix, dtype=torch.float64)
        share = float(torch.distributions.Beta(a, a).sample())
    middle = [int(torch.randint(side, (), generator=draw)) for side in images.shape[2:]]
    half = [int(side * math.sqrt(share)) // 2 for side in images.shape[2:]]
    mixed = images.clone()
    for row in range(images.shape[2]):
        for column in range(images.shape[3]):
            inside = [m - h <= p < m + h for p, m, h in zip((row, column), middle, half, strict=True)]
            if all(inside):
                mixed[:, :, row, column] = images.flip(0)[:, :, row, column]
    return mixed


@pytest.mark.parametrize("mixing", [0.25, 0.0])
def test_the_papers_student(mixing):
    """Adam on KL at T = 8, not scaled, written from the paper; the rate falls along a cosine."""
    run = trainer(3, torch.float64, rounds=4, cutmix=mixing, crop_padding=2)
    method, teacher = run.method, run.teacher
    twin = nets.wrn(seed=1, base_width=4, dtype=torch.float64).train()
    twin.load_state_dict(run.student.state_dict())
    run.fit()
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for index in range(4):
        adam.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * index / 4))
        for step in range(2):
            pixels = paper_batch(run.synthesizer.patches, method, 2 * index + step, 3)
            # the pixels of the run are float32
            pixels = pixels.float().double()
            with torch.no_grad():
                goal = (teacher(pixels) / 8).softmax(1)
            loss = F.kl_div((twin(pixels) / 8).log_softmax(1), goal, reduction="batchmean")
            adam.zero_grad()
            loss.backward()
            adam.step()
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(run.student.state_dict()[name], tensor, rtol=1e-6, atol=1e-8, msg=name)


def test_default_schedule_is_a_thousand_epochs_of_98_steps():
    method = Ood()
    assert method.rounds * method.student_steps == 1000 * math.ceil(50_000 / 512)
    assert (method.patches, method.batch_size) == (50_000, 512)


def test_shares_of_the_box_have_the_beta_distribution():
    synthesizer = trainer().synthesizer
    shares = torch.tensor([synthesizer._share(batch) for batch in range(1500)])
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.25 + 1)), abs=0.015)


def test_a_batch_depends_only_on_round_and_step():
    one, other = trainer(), trainer()
    seen = {}
    for index in range(3):
        one.synthesizer.begin_round(index)
        for step in range(2):
            seen[index, step] = one.synthesizer.sample(step)
            assert seen[index, step].shape == (6, 3, 8, 8)
            assert seen[index, step].dtype == torch.float32
            assert seen[index, step].min() >= 0 and seen[index, step].max() <= 1
    for index, step in [(2, 1), (0, 0), (2, 1), (1, 0)]:
        other.synthesizer.begin_round(index)
        assert torch.equal(other.synthesizer.sample(step), seen[index, step])
    assert len({tensor.numpy().tobytes() for tensor in seen.values()}) == 6


def test_the_rows_of_two_processes_are_those_of_one(tmp_path):
    torchrun(str(SUPPORT / "two_processes_ood.py"), str(tmp_path))
    parts = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for index, whole in enumerate(two_batches(trainer().synthesizer)):
        assert torch.equal(torch.cat([part[index] for part in parts]), whole)


# ----------------------------------------------------------------------------------- pictures and records


def test_resume_with_another_picture_under_the_same_name_is_refused(tmp_path):
    place = save(tmp_path / "a.png")
    run = trainer(pictures=(place,))
    state = checkpoint.load(checkpoint.save(tmp_path / "checkpoints", 0, run.state_dict(), 1))[1]
    trainer(pictures=(place,)).load_state_dict(state)
    save(tmp_path / "a.png", seed=1)
    with pytest.raises(InputError, match=r"ood\.pictures: the run began with pictures of another content"):
        trainer(pictures=(place,)).load_state_dict(state)


def test_the_record_tells_the_pictures_and_the_card_what_they_are(tmp_path):
    teacher = save_teacher(tmp_path / "teacher")
    place = save(tmp_path / "street.png", 90, 70)
    output = tmp_path / "run"
    typed = [
        "distill",
        f"--output_dir={output}",
        f"--teacher.id=local-dir:{teacher}",
        "--student.architecture=wrn_10_1",
        '--student.model_args={"base_width": 4}',
        "--synthesizer=ood",
        f"--ood.pictures=[{place}, sklearn:flower.jpg]",
        "--ood.patches=40",
        "--ood.batch_size=8",
        "--ood.rounds=2",
        "--ood.student_steps=2",
        "--trainer.progress=false",
    ]
    assert main(typed) == 0
    found = read_record(output)
    assert found.method == "ood"
    first, second = found.synthesis["pictures"]
    assert (first["name"], first["height"], first["width"]) == ("street.png", 90, 70)
    assert first["sha256"] == load("x", place).sha256
    assert (second["name"], second["height"], second["width"]) == ("sklearn:flower.jpg", 427, 640)
    assert found.synthesis["patches"] == 40
    assert str(tmp_path) not in (output / "metrics.json").read_text()
    card = (output / "README.md").read_text()
    assert "patches of photographs" in card and "synthetic" not in card
    assert "asano2023augmented" in card


def test_a_picture_from_the_hub_is_pinned_to_its_commit(tmp_path):
    """From the cache that the Hub's client keeps, without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "datasets--acme--streets"
    (repository / "snapshots" / commit / "busy").mkdir(parents=True)
    save(repository / "snapshots" / commit / "busy" / "one.png")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "from abd_hub.synthesis.photographs import load\n"
        "from abd_hub.core.errors import InputError\n"
        f"for revision in ('', '@main', '@{commit}'):\n"
        "    found = load('ood.pictures', f'hf://datasets/acme/streets{revision}/busy/one.png')\n"
        f"    assert found.revision == '{commit}', found.revision\n"
        "    print(found.sha256, tuple(found.pixels.shape))\n"
        "try:\n"
        "    load('ood.pictures', 'hf://datasets/acme/streets/busy/two.png')\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *rows, refusal = done.stdout.splitlines()
    assert len(rows) == 3 and len(set(rows)) == 1 and rows[0].endswith("(3, 80, 100)")
    assert refusal.startswith("ood.pictures: hf://datasets/acme/streets/busy/two.png cannot be fetched: ")


def write(path, data):
    path.write_bytes(data)
    return str(path)


def png_header(width, height):
    """A PNG file that says how large it is and holds nothing more."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 8) + b"IDAT"


def truncated(folder):
    data = Path(save(folder / "whole.png")).read_bytes()
    return write(folder / "x.png", data[: len(data) // 2])


def deep(folder):
    Image.fromarray(np.zeros((80, 80), dtype=np.uint16)).save(folder / "x.png")
    return str(folder / "x.png")


def tiny(folder):
    Image.new("RGB", (1, 1)).save(folder / "x.png")
    return str(folder / "x.png")


def eps(folder):
    return write(folder / "x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n")


GIF_SCREEN = (
    b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + b"\x00" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"
)
BAD_PICTURES = {
    "missing file": (lambda folder: str(folder / "x.png"), "there is no file"),
    "folder": (str, "there is no file"),
    "text": (lambda folder: write(folder / "x.png", b"no picture"), "is no picture that can be read"),
    "empty": (lambda folder: write(folder / "x.png", b""), "is no picture that can be read"),
    "truncated": (truncated, "is damaged or cut off"),
    "svg": (
        lambda folder: write(folder / "x.svg", b"<svg width='9e9' height='9e9'/>"),
        "is no picture that can be read",
    ),
    "eps": (eps, "is no picture that can be read"),
    "png bomb": (lambda folder: write(folder / "x.png", png_header(60_000, 60_000)), "is too large"),
    "large png": (lambda folder: write(folder / "x.png", png_header(9_000, 9_000)), "at most 67,108,864"),
    "gif bomb": (lambda folder: write(folder / "x.gif", GIF_SCREEN), "is too large"),
    "one pixel": (tiny, "has 1x1 pixels; use a picture of"),
    "16 bits": (deep, "more than 8 bits"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_bad_pictures_are_refused_in_one_line(kind, tmp_path):
    make, words = BAD_PICTURES[kind]
    with pytest.raises(InputError, match=words) as refusal:
        trainer(pictures=(make(tmp_path),))
    assert str(refusal.value).startswith("ood.pictures: ") and "\n" not in str(refusal.value)


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(InputError, match="larger than 256 MiB"):
        trainer(pictures=(str(tmp_path / "x.png"),))


def test_a_picture_lies_as_it_is_looked_at(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 70)).save(tmp_path / "x.jpg", exif=exif)
    assert load("x", str(tmp_path / "x.jpg")).pixels.shape == (3, 100, 70)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_pixels_become_rgb(mode, tmp_path):
    Image.new("RGB", (80, 90), "white").convert(mode).save(tmp_path / "x.tiff")
    found = load("x", str(tmp_path / "x.tiff")).pixels
    assert found.shape == (3, 90, 80) and found.dtype == torch.uint8 and found.min() > 240


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pictures": ()}, r"ood\.pictures: names no picture"),
        ({"pictures": "photo.jpg"}, r"ood\.pictures: must be a list"),
        ({"pictures": ("",)}, r"ood\.pictures: '' is empty"),
        ({"pictures": ("a.png", "a.png")}, r"ood\.pictures: 'a.png' is named twice"),
        ({"pictures": ("sklearn:dog.jpg",)}, "use sklearn:china.jpg or sklearn:flower.jpg"),
        ({"pictures": ("hf://datasets/org/name",)}, "names no file"),
        ({"pictures": ("hf://datasets",)}, r"ood\.pictures: "),
        ({"pictures": ("hf://buckets/org/name/a.png",)}, "names no file"),
        ({"patches": 0}, r"ood\.patches: must be at least 1, got 0"),
        ({"memory_limit": 0.0}, r"ood\.memory_limit: must be positive"),
        ({"crop_padding": -1}, r"ood\.crop_padding: must not be negative"),
        ({"cutmix": -0.1}, r"ood\.cutmix: must not be negative"),
        ({"temperature": 0}, r"ood\.temperature: must be positive"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(InputError, match=words):
        Ood(**settings)


def plain_teacher(channels, side):
    return Classifier(
        nets.PlainNet(), DataSpec(channels, side, side, tuple("abcde")), [0] * channels, [1] * channels
    ).freeze()


@pytest.mark.parametrize(("channels", "side", "words"), [(3, 224, "use at most 14266,"), (2, 8, "takes 2")])
def test_teachers_whose_patches_do_not_fit(channels, side, words):
    teacher = plain_teacher(channels, side)
    with pytest.raises(InputError, match=words):
        Trainer(teacher, nets.wrn(), Ood(), [], QUIET)
