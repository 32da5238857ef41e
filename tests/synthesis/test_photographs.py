"""Pictures of every kind are read upright and in color; bad ones are refused in one line."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_pictures import save
from PIL import Image
from two_processes_ood import trainer

from abd_hub import InputError
from abd_hub.synthesis.photographs import load


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
