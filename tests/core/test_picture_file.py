"""Hostile and odd pictures, given to everyone who reads pictures of strangers."""

import io
import os
import struct
import subprocess
import sys
import zlib

import datasets
import numpy as np
import pytest
import torch
from abd_hub_app.images import MOST_PIXELS, read_picture
from PIL import Image

from abd_hub import InputError, build_trigger, load_images
from abd_hub.core.picture_file import MOST_SCANS, decode_picture, read_file
from abd_hub.synthesis import photographs


def as_data(content, folder):
    """The picture as a data set of one image, (3, H, W) uint8."""
    rows = {"image": [{"bytes": content, "path": None}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])})
    (folder / "set" / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "set" / "data" / "test-0.parquet")
    return load_images(str(folder / "set"), "test").images[0]


def as_photograph(content, folder):
    (folder / "x").write_bytes(content)
    return photographs.load("ood.pictures", str(folder / "x")).pixels


def as_trigger(content, folder):
    (folder / "x").write_bytes(content)
    trigger = build_trigger("picture", {"file": str(folder / "x"), "mode": "replace"})
    return trigger._picture.to(torch.uint8)


def as_visitor(content, folder):
    (folder / "x").write_bytes(content)
    return torch.from_numpy(np.array(read_picture(folder / "x"))).permute(2, 0, 1)


READERS = {
    "data set": (as_data, "image 0 "),
    "photograph": (as_photograph, "ood.pictures: "),
    "trigger": (as_trigger, "trigger picture: file "),
    "page": (as_visitor, "image: "),
}


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(height=80, width=100):
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def png(width, height, depth, colors, rows=b""):
    """A PNG written by hand; without rows it is a header only."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def many_scans():
    data = encoded(Image.new("L", (80, 80)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * MOST_SCANS + b"\xff\xd9"


def broken_exif():
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0")
    return data.replace(b"II*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n0 0 moveto\n%%EOF\n"
GIF_BOMB = (
    b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + b"\x00" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;"
)
HOSTILE = {
    "text": (lambda: b"no picture", "no picture that can be read"),
    "empty": (lambda: b"", "no picture that can be read"),
    "svg": (lambda: b"<svg width='9e9' height='9e9'/>", "no picture that can be read"),
    "eps": (lambda: EPS, "no picture that can be read"),
    "jpeg 2000": (lambda: encoded(noise(), "JPEG2000"), "no picture that can be read"),
    "half a png": (lambda: encoded(noise())[:10_000], "damaged or cut off"),
    "half a jpeg": (lambda: encoded(noise(), "JPEG")[:2_000], "damaged or cut off"),
    "half a webp": (lambda: encoded(noise(), "WEBP")[:2_000], "damaged or cut off|no picture"),
    "half a gif": (lambda: encoded(noise(), "GIF")[:4_000], "damaged or cut off"),
    "wrong pixels": (lambda: png(80, 80, 8, 2, b"\7" * 40), "damaged or cut off"),
    "png bomb": (lambda: png(60_000, 60_000, 8, 2), "too large"),
    "gif bomb": (lambda: GIF_BOMB, "too large"),
    "large png": (lambda: png(9_000, 9_000, 8, 2), "is 9000x9000; use a picture of at most"),
    "many scans": (many_scans, "more than 100 scans"),
    "gray of 16 bits": (lambda: encoded(Image.fromarray(np.full((80, 80), 4000, np.uint16))), "8 bits"),
    "real numbers": (lambda: encoded(Image.new("F", (80, 80)), "TIFF"), "8 bits|no picture"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pictures_are_refused_in_one_line(kind, reader, tmp_path):
    (make, words), (read, begin) = HOSTILE[kind], READERS[reader]
    with pytest.raises(InputError, match=words) as refusal:
        read(make(), tmp_path)
    assert str(refusal.value).startswith(begin) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("reader", READERS)
def test_no_program_is_started_for_a_picture(reader, tmp_path, monkeypatch):
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\necho started >> {tmp_path}/log\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(InputError):
        READERS[reader][0](EPS, tmp_path)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG", "TIFF", "PPM"])
def test_ordinary_pictures_are_pillows_own(kind, reader, tmp_path):
    content = encoded(noise(), kind)
    if reader == "page" and kind in ("TIFF", "PPM"):
        with pytest.raises(InputError, match="no picture that can be read"):
            as_visitor(content, tmp_path)
        return
    wanted = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert torch.equal(READERS[reader][0](content, tmp_path), torch.from_numpy(wanted).permute(2, 0, 1))


@pytest.mark.parametrize("reader", READERS)
def test_pictures_stand_upright(reader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(noise(), "PNG", exif=exif)
    wanted = torch.from_numpy(np.array(noise())).permute(2, 1, 0).flip(2)
    assert torch.equal(READERS[reader][0](content, tmp_path), wanted)


@pytest.mark.parametrize("reader", READERS)
def test_three_channels_of_16_bits_lose_their_lower_8(reader, tmp_path):
    levels = np.random.default_rng(0).integers(0, 1 << 16, (80, 100, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    found = READERS[reader][0](png(100, 80, 16, 2, rows), tmp_path)
    assert torch.equal(found, torch.from_numpy((levels >> 8).astype(np.uint8)).permute(2, 0, 1))


@pytest.mark.parametrize("reader", READERS)
def test_a_preview_inside_a_photograph_counts_no_scans(reader, tmp_path):
    content = encoded(noise(), "JPEG", comment=many_scans())
    assert READERS[reader][0](content, tmp_path).shape == (3, 80, 100)


def test_a_mask_of_16_bits_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(encoded(noise()))
    (tmp_path / "mask.png").write_bytes(encoded(Image.fromarray(np.full((80, 100), 65_535, np.uint16))))
    options = {"file": str(tmp_path / "picture.png"), "mask": str(tmp_path / "mask.png")}
    with pytest.raises(InputError, match=r"^trigger picture: mask .* has more than 8 bits"):
        build_trigger("picture", options)


def test_a_broken_orientation_is_left_out():
    assert decode_picture(broken_exif(), "x").size == (100, 80)


@pytest.mark.parametrize(("height", "width"), [(3_024, 4_032), (6_000, 8_000)])
def test_the_page_takes_the_photograph_of_a_telephone(height, width, tmp_path):
    gray = (np.indices((height, width)).sum(0) // 64).astype(np.uint8)
    (tmp_path / "x.jpg").write_bytes(encoded(Image.fromarray(gray), "JPEG", quality=30))
    found = read_picture(tmp_path / "x.jpg")
    factor = width // found.width
    assert found.mode == "RGB" and found.height * found.width <= MOST_PIXELS and factor in (2, 4)
    small = Image.fromarray(gray).reduce(factor).convert("RGB")
    assert np.abs(np.array(found, dtype=int) - np.array(small, dtype=int)).mean() < 3


def test_a_large_picture_in_several_scans_is_refused_by_the_page(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(Image.new("L", (3_000, 3_000)), "JPEG", progressive=True))
    with pytest.raises(InputError, match=r"^image: .* is 3000x3000"):
        read_picture(tmp_path / "x.jpg")


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    for name, words in (
        ("pipe", "no regular file"),
        (".", "no regular file"),
        ("none", "No such file"),
        ("large", "larger than 2 MiB"),
    ):
        with pytest.raises(InputError, match=f"^x .*{words}"):
            read_file(tmp_path / name, "x", most_bytes=2 << 20)


@pytest.mark.parametrize("command", [["--help"], ["list"]])
def test_light_commands_do_without_pillow(command):
    script = (
        "import sys\nfrom abd_hub.cli import main\n"
        f"try:\n    main({command})\nexcept SystemExit:\n    pass\n"
        "print('PIL' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False", done.stderr
