"""Only this module decodes a picture, which may be a stranger's.

It opens only formats that Pillow decodes itself, because EPS, for example, would start another program. The
header gives the size and the kind of pixels. Both are checked before any pixel is unpacked.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from abd_hub.core.errors import InputError, reason_of

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats in which data sets hold pictures."""
MOST_PIXELS = 1 << 26
"""Largest picture: 67 million pixels are 201 MB as uint8, and Pillow itself warns from 89 million on."""
MOST_SCANS = 100
"""Largest number of a JPEG's scans: one of 14 bytes goes over the whole picture, and real files have ten."""
MOST_BYTES = 1 << 28
"""Largest file: 256 MiB are more than 67 million pixels take without compression."""

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ORIENTATION = 0x0112
_JPEG_BEGINS = b"\xff\xd8"
_JPEG_ENDS = b"\xff\xd9"
_JPEG_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
"""A marker with a length behind it; within a JPEG's data, 00 or the number of a restart follows a byte FF."""


def decode_picture(
    content: bytes,
    what: str,
    *,
    mode: str = "RGB",
    formats: tuple[str, ...] = FORMATS,
    most_pixels: int = MOST_PIXELS,
    most_jpeg_pixels: int = 0,
) -> Image.Image:
    """Decodes the first frame of a picture file and turns it upright, as its EXIF orientation says.

    Args:
        content: the bytes of the file.
        what: the picture's name, with which every message begins.
        mode: mode of the result, ``RGB``, ``L`` or ``RGBA``. Pictures of 16 bits in each of three channels
            lose their lower 8 bits.
        formats: Pillow's names of the allowed formats.
        most_pixels: largest number of pixels in the result.
        most_jpeg_pixels: largest number of pixels in the file of an ordinary JPEG, if it exceeds
            ``most_pixels``. Such a file is decoded at a half, a quarter or an eighth of its height and width.

    Raises:
        InputError: the content is no picture of these formats, is damaged, has too many pixels, or has gray
            values of more than 8 bits.
    """
    scans = _scans(content)
    if scans > MOST_SCANS:
        raise InputError(f"{what} is a JPEG of more than {MOST_SCANS} scans; save it again as PNG")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The size is checked below, and oddities are no fault.
            with Image.open(io.BytesIO(content), formats=formats) as picture:
                if scans == 1:
                    _shrink(picture, most_pixels, most_jpeg_pixels)
                _check_header(picture, what, most_pixels)
                return _upright(picture).convert(mode)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{what} is too large; use a picture of at most {most_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        known = ", ".join(formats)
        raise InputError(f"{what} is no picture that can be read; use one of {known}") from error
    except Exception as error:  # Decoders raise errors of every type for damaged files.
        reason = reason_of(error)
        raise InputError(f"{what} is damaged or cut off ({reason}); use an undamaged file") from error


def read_file(path: Path, what: str, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Returns the content of a regular file of bounded size.

    Args:
        path: the file.
        what: the file's name, with which every message begins.
        most_bytes: the largest allowed size.

    Raises:
        InputError: the file does not exist, is too large, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{what} cannot be read: it is no regular file; give a picture file")
        if status.st_size > most_bytes:
            raise InputError(f"{what} is larger than {most_bytes >> 20} MiB; use a smaller file")
        return path.read_bytes()
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name may hold a NUL
        raise InputError(f"{what} cannot be read: {getattr(error, 'strerror', error)}") from error


def _check_header(picture: Image.Image, what: str, most_pixels: int) -> None:
    width, height = picture.size
    if width * height > most_pixels:
        raise InputError(f"{what} is {width}x{height}; use a picture of at most {most_pixels:,} pixels")
    if picture.mode in _DEEP_MODES:
        raise InputError(f"{what} has more than 8 bits per channel; convert it to 8 bits")


def _shrink(picture: Image.Image, most_pixels: int, most_jpeg_pixels: int) -> None:
    """Sets the decoder of a large JPEG with one scan to a smaller picture, which saves memory."""
    width, height = picture.size
    if not most_pixels < width * height <= most_jpeg_pixels:
        return
    factor = next((factor for factor in (2, 4) if width * height <= most_pixels * factor**2), 8)
    picture.draft(picture.mode, (width // factor, height // factor))


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # Some formats hold the orientation behind the pixels.
    if picture.getexif().get(_ORIENTATION) is None:
        return picture
    return ImageOps.exif_transpose(picture)


def _scans(content: bytes) -> int:
    """Returns the number of a JPEG's scans, at most one more than allowed; 0 for other formats."""
    if not content.startswith(_JPEG_BEGINS):
        return 0

    count, place = 0, len(_JPEG_BEGINS)
    while count <= MOST_SCANS:
        marker = _MARKER.search(content, place)
        if marker is None or marker[0] == _JPEG_ENDS:
            break
        count += marker[0] == _JPEG_SCAN
        # The search goes on behind the marker's data, because an embedded preview has scans of its own.
        place = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    return count
