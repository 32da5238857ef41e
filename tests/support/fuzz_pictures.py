"""Picture files of every format, changed where their formats say what follows."""

from __future__ import annotations

import base64
import functools
import io
import random
import struct
import zlib

import numpy as np
from fuzz_mutations import TEXTS, mutated_bytes
from PIL import Image

HUGE = (0, 1, 2, 4_097, 9_000, 65_535, 60_000, 2**31 - 1, 2**32 - 1)
FOREIGN = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\n%%EOF\n",
    b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"8BPS\0\1" + bytes(60),
    b"\xd7\xcd\xc6\x9a" + bytes(60),
    b"\0\0\1\0\1\0" + bytes(60),
    b"push graphic-context\nfill 'url(|touch ran)'\npop graphic-context\n",
    b"GIMP Palette\n",
    b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(243),
    b"P6\n9 9\n65535\n" + bytes(486),
    b"Pf\n9 9\n-1.0\n" + bytes(324),
    b"P6\n99999999999999999999 9\n255\n" + bytes(9),
    b"P1\n4 4\n" + b"1 0 " * 8,
    b"",
    b"\xff\xd8",
    b"GIF89a",
    b"II*\0\x08\0\0\0\0\0",
)


def _noise(side: int) -> Image.Image:
    levels = np.random.default_rng(side).integers(0, 256, (side, side + 6, 3), dtype=np.uint8)
    return Image.fromarray(levels)


@functools.cache
def examples(side: int = 70) -> tuple[tuple[str, bytes], ...]:
    """Valid pictures of (side, side + 6) in many forms, each with Pillow's name of its format."""
    color, other = _noise(side), _noise(side).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {"exif": exif}
    frames = {"save_all": True, "append_images": [other, color], "duration": 9}
    ways = [
        *[("PNG", mode, {}) for mode in ("RGB", "L", "P", "1", "LA", "I;16")],
        *[("BMP", mode, {}) for mode in ("RGB", "1", "P")],
        *[("PPM", mode, {}) for mode in ("RGB", "L", "1")],
        *[("JPEG", mode, {}) for mode in ("L", "CMYK")],
        *[("PNG", "RGBA", turned), ("JPEG", "RGB", turned), ("WEBP", "RGB", turned), ("GIF", "P", {})],
        *[(name, "RGB", frames) for name in ("PNG", "WEBP", "GIF", "TIFF")],
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        *[("TIFF", "RGB", {"compression": way}) for way in ("raw", "tiff_lzw", "jpeg")],
        *[
            ("TIFF", "F", {}),
            ("TIFF", "1", {"compression": "group4"}),
            ("TIFF", "RGBA", {"compression": "packbits"}),
        ],
    ]
    return tuple((kind, _encoded(color, kind, mode, options)) for kind, mode, options in ways)


def _encoded(picture: Image.Image, kind: str, mode: str, options: dict) -> bytes:
    stream = io.BytesIO()
    gray = {"I;16": lambda: picture.convert("I").convert("I;16"), "F": lambda: picture.convert("F")}
    gray.get(mode, lambda: picture.convert(mode))().save(stream, kind, **options)
    return stream.getvalue()


def hostile_picture(chance: random.Random, side: int = 70) -> bytes:
    """A picture file with some changes, a foreign file, or a valid one."""
    if chance.random() < 0.06:
        return chance.choice(FOREIGN)
    if chance.random() < 0.002:
        return flat_png(8_192, chance.choice((8_190, 8_192)))
    kind, data = chance.choice(examples(side))
    for _ in range(chance.choice((0, 1, 1, 2))):
        data = STRUCTURED[kind](data, chance) if chance.random() < 0.6 else mutated_bytes(data, chance)
    return data


def plain_picture(side: int = 70) -> bytes:
    """A valid PNG."""
    return examples(side)[0][1]


def flat_png(width: int, height: int) -> bytes:
    """A PNG of one color, small as a file and as large in memory as its size says."""
    row = zlib.compressobj(1)
    packed = b"".join(row.compress(bytes(1 + width)) for _ in range(height)) + row.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(data: bytes, chance: random.Random) -> bytes:
    """Changes one chunk, with a right checksum."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return data
    index = chance.randrange(len(chunks))
    name, content = chunks[index]
    if name == b"IHDR" and len(content) == 13 and chance.random() < 0.7:
        sides = struct.pack(">II", chance.choice(HUGE), chance.choice(HUGE))
        rest = bytes(chance.choice((content[place], chance.randrange(20))) for place in range(8, 13))
        content = chance.choice((sides + content[8:], content[:8] + rest))
    elif chance.random() < 0.5:
        content = mutated_bytes(content, chance)
    else:
        text = chance.choice(TEXTS).encode("utf-8", "replace")
        bomb = b"a\0\0" + zlib.compress(bytes(20_000_000), 9)
        extra = [(b"tEXt", b"a\0" + text), (b"zTXt", bomb), (b"eXIf", chance.randbytes(40)), (b"iCCP", bomb)]
        extra += [(b"acTL", struct.pack(">II", chance.choice(HUGE), 0)), (name, content), (b"PLTE", b"")]
        chunks.insert(index, chance.choice(extra))
    chunks[index] = (name, content) if chance.random() < 0.9 else (b"IEND", b"")
    return data[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _jpeg(data: bytes, chance: random.Random) -> bytes:
    """Changes the size in the frame's header, repeats a scan or puts a segment in."""
    out = bytearray(data)
    frame = next((at for mark in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(mark)) > 0), 0)
    scan = data.rfind(b"\xff\xda")
    match chance.randrange(4):
        case 0 if frame:
            out[frame + 5 : frame + 9] = struct.pack(
                ">HH", chance.choice(HUGE) % 65_536, chance.choice(HUGE) % 65_536
            )
        case 1 if scan > 0:
            return data[:scan] + data[scan:-2] * chance.choice((2, 50, 120)) + b"\xff\xd9"
        case 2:
            content = chance.choice(
                (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"")
            )
            content += chance.randbytes(chance.choice((0, 20, 300)))
            mark = bytes([0xFF, chance.choice((0xE1, 0xE2, 0xE0, 0xED, 0xFE, 0xDB, 0xC4, 0xDD))])
            out[2:2] = mark + struct.pack(">H", len(content) + 2) + content
        case _:
            place = chance.randrange(2, max(3, len(out) - 2))
            out[place : place + 2] = bytes([0xFF, chance.randrange(0xC0, 0xFF)])
    return bytes(out)


def _at(offset: int, form: str, limit: int):
    """A change of two numbers for the size at a fixed place."""

    def change(data: bytes, chance: random.Random) -> bytes:
        out = bytearray(data)
        size = struct.calcsize(form)
        out[offset : offset + size] = struct.pack(form, *(chance.choice(HUGE) % limit for _ in range(2)))
        return bytes(out)

    return change


def _bmp(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return _at(18, "<II", 2**32)(data, chance)
    out = bytearray(data)
    place = chance.choice((10, 14, 26, 28, 30, 34, 46))
    out[place : place + 2] = struct.pack(
        "<H", chance.choice((0, 1, 2, 3, 6, 12, 16, 24, 32, 40, 124, 65_535))
    )
    return bytes(out)


def _gif(data: bytes, chance: random.Random) -> bytes:
    frame = data.find(b",", 13)
    place = 6 if frame < 0 or chance.random() < 0.5 else frame + 5
    data = _at(place, "<HH", 65_536)(data, chance)
    return data[:-1] + data[max(frame, 13) : -1] * chance.choice((0, 1, 20)) + b";"


def _webp(data: bytes, chance: random.Random) -> bytes:
    place = data.find(b"VP8X")
    out = bytearray(data)
    if place > 0 and chance.random() < 0.7:
        out[place + 12 : place + 18] = b"".join(
            (chance.choice(HUGE) % 2**24).to_bytes(3, "little") for _ in "hw"
        )
    else:
        size = chance.choice((4, 16))
        out[size : size + 4] = struct.pack("<I", chance.choice(HUGE))
    return bytes(out)


def _tiff(data: bytes, chance: random.Random) -> bytes:
    """Changes one entry of the directory of tags: its tag, its type, its count or its value."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    if not 0 < count < 200:
        return mutated_bytes(data, chance)
    out = bytearray(data)
    entry = start + 2 + 12 * chance.randrange(count)
    match chance.randrange(5):
        case 0:
            out[entry : entry + 2] = struct.pack(
                "<H", chance.choice((256, 257, 258, 259, 273, 277, 330, 34665, 320))
            )
        case 1:
            out[entry + 2 : entry + 4] = struct.pack("<H", chance.randrange(20))
        case 2:
            out[entry + 4 : entry + 8] = struct.pack("<I", chance.choice(HUGE))
        case 3:
            end = start + 2 + 12 * count
            out[end : end + 4] = struct.pack("<I", chance.choice((start, 8, len(data) - 4, 2**31)))
        case _:
            out[entry + 8 : entry + 12] = struct.pack(
                "<I", chance.choice((*HUGE, start, 8, 5, 7, 34_712, 50_000))
            )
    return bytes(out)


def _ppm(data: bytes, chance: random.Random) -> bytes:
    words = data.split(maxsplit=4)
    if len(words) < 2:
        return mutated_bytes(data, chance)
    place = chance.randrange(1, min(len(words), 4))
    words[place] = chance.choice(
        (b"0", b"-1", b"1e9", b"65536", b"9" * 12, b"9" * 5_000, b"#x\n7", b"\0", b"99999")
    )
    return b"\n".join(words)


STRUCTURED = {
    "PNG": _png, "JPEG": _jpeg, "BMP": _bmp, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff, "PPM": _ppm,
}  # fmt: skip


def hostile_array(chance: random.Random) -> bytes:
    """A .npy file with a changed header, another kind of archive, or a valid one."""
    shape = chance.choice(
        ("(8, 8)", "(3, 8, 8)", "(1, 8, 8)", "()", "(0,)", "(8,)", "(2, 2, 2, 2)", "(0, 8)")
    )
    shape = chance.choice(
        (shape, shape, "(99999, 99999)", "(1000000000000,)", "(-1, 8)", "8", "('a',)", "(8.0, 8)")
    )
    kind = chance.choice(
        ("'<f8'", "'|u1'", "'<f4'", "'<f2'", "'<c16'", "'|O'", "'<U9'", "'|S8'", "'<M8[s]'", "'>i8'")
    )
    odd = (
        "'<U1000000000'",
        "[('a', '<f8')]",
        "'|V0'",
        "'x'",
        "None",
        "__import__('os')",
        "'|b1'",
        "[('a'," * 50,
    )
    kind = chance.choice((kind, kind, chance.choice(odd)))
    order = chance.choice(("False", "False", "True", "0", "None"))
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    header = chance.choice(
        (header, header, header[:-1], "(" * 300, "{" * 5_000, "1+" * 9_000 + "1", "x" * 70_000)
    )
    body = np.random.default_rng(0).random(chance.choice((192, 64, 0, 5))).tobytes()
    version = chance.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\0"))
    length = struct.pack("<H" if version == b"\1\0" else "<I", min(len(header) + 1, 65_535))
    data = b"\x93NUMPY" + version + length + header.encode() + b"\n" + body
    zipped = io.BytesIO()
    np.savez(zipped, a=np.zeros((8, 8)))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return chance.choice(
        (data, data, data, mutated_bytes(data, chance), zipped.getvalue(), pickled.getvalue())
    )


def hostile_drawing(chance: random.Random) -> object:
    """What a program sends to the page in place of a drawing."""
    data = chance.choice(
        (hostile_picture(chance), _png(plain_picture(), chance), _png(plain_picture(), chance))
    )
    picture = base64.b64encode(data).decode()
    start = chance.choice(("data:image/png;base64,",) * 6 + ("data:text/html,", "http://127.0.0.1:9/", ""))
    return chance.choice(
        (start + picture, start + picture, start + picture, start + picture[:-3], 5, None, ["x"])
    )
