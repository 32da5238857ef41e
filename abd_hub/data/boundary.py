"""A data set of a stranger reaches its own files and nothing else.

Its README may name files anywhere on this machine or on a network, an image cell may hold any path, and a
folder may hold links. So README and files are checked before the ``datasets`` library opens one. A cell's
path counts only where it lies in the folder of the data set, or in the cache of its repository.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from abd_hub.core.errors import InputError, one_line, reason_of
from abd_hub.core.lfs import REMEDY, is_pointer
from abd_hub.core.picture_file import MOST_BYTES, read_file
from abd_hub.core.yaml_text import YamlError, read_yaml

CARD, OTHER_CARD = "README.md", ".huggingface.yaml"
"""Files in which a data set names its configurations."""
MOST_CARD_BYTES = 20_000_000
"""Largest size of such a file; the names of 21,841 classes take 1 million."""
READERS = ("parquet", "arrow", "json", "csv", "imagefolder", "webdataset", "cache")
"""Modules of the ``datasets`` library that hold images; others read pickles, or start other libraries."""
_MEMBER = re.compile(r"zip://(.+?)::(.+)", re.DOTALL)
"""A path of the library into an archive."""
_PLACES = ("data_files", "data_dir", "path")
"""Fields of a configuration whose texts name files."""


@dataclass(frozen=True)
class Boundary:
    """Holds the folders whose files a data set may open.

    Args:
        source: name of the data set, for messages.
        roots: its folder, or the folders of its repository in the caches.
        repository: prefix of its addresses on the Hub at one commit; None for a folder.
        folder_of_images: the library itself lists pictures as paths.
    """

    source: str
    roots: tuple[Path, ...]
    repository: str | None = None
    folder_of_images: bool = False

    def check_files(self, files: Sequence[str]) -> None:
        """Refuses files outside of the data set, and files that are no regular files.

        Raises:
            InputError: a file is another one's.
        """
        for file in files:
            name = str(file)
            if self.repository is not None:
                if not name.startswith(self.repository) or ".." in name.split("/"):
                    raise self._outside(name)
                continue
            if not self._holds(Path(name)):
                raise self._outside(name)
            if not stat.S_ISREG(Path(name).stat().st_mode):
                raise InputError(f"data set {self.source}: {Path(name).name!r} is no regular file; remove it")
            if is_pointer(Path(name)):
                raise InputError(f"data set {self.source}: {Path(name).name} {REMEDY}")

    def read(self, path: str | None, what: str) -> bytes:
        """Returns the bytes of a picture that a cell names by its path.

        Raises:
            InputError: the cell may not name a path, or the path lies outside of the data set.
        """
        if path is None:
            raise InputError(f"{what} is missing; use data with an image in every row")
        if not self.folder_of_images:
            raise InputError(
                f"{what} is a path, which may be any file of this machine, and not the bytes of a picture; "
                "use data that hold their pictures, or a folder of pictures"
            )
        member = _MEMBER.fullmatch(path)
        file = Path(member[2] if member else path)
        if not self._holds(file):
            raise self._outside(str(file))
        return _read_member(file, member[1], what) if member else read_file(file, what)

    def check_inside(self, file: Path) -> None:
        """Refuses a file that is a link to another place.

        Raises:
            InputError: it lies outside of the data set.
        """
        if not self._holds(file):
            raise self._outside(file.name)

    def _holds(self, path: Path) -> bool:
        try:
            real = path.resolve()
        except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or a loop of links
            return False
        return any(real.is_relative_to(root.resolve()) for root in self.roots)

    def _outside(self, name: str) -> InputError:
        return InputError(
            f"data set {self.source}: {one_line(name)[:120]!r} lies outside of it, and is not read; "
            "copy the files into the data set, without links"
        )


def _read_member(archive: Path, name: str, what: str) -> bytes:
    """Returns the bytes of one file in a zip, of bounded size; an archive's name leads nowhere else."""
    try:
        packed = _archive(archive, archive.stat().st_mtime_ns)
        if packed.getinfo(name).file_size > MOST_BYTES:
            raise InputError(f"{what} is larger than {MOST_BYTES >> 20} MiB; use a smaller file")
        return packed.read(name)
    except (OSError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{what} cannot be read from {archive.name}: {reason_of(error)}") from error


@lru_cache(maxsize=4)
def _archive(path: Path, changed: int) -> zipfile.ZipFile:
    """Opens an archive once, because the list of its files may be long; ``changed`` tells versions apart."""
    return zipfile.ZipFile(path)


def check_card(source: str, text: str, *, name: str = CARD) -> None:
    """Refuses a card that names files outside of its data set.

    Args:
        source: name of the data set, for messages.
        text: content of ``README.md`` or of ``.huggingface.yaml``.
        name: of the file; the former is YAML between two lines of three dashes.

    Raises:
        InputError: the YAML is damaged or has tags, or a configuration reaches out.
    """
    front = text if name == OTHER_CARD else _front_matter(text)
    try:
        facts = read_yaml(front)
    except YamlError as error:
        raise InputError(f"data set {source}: its {name} cannot be read: {error}") from error
    configurations = facts.get("configs") if isinstance(facts, dict) else None
    for pattern in _patterns(configurations):
        if _reaches_out(pattern):
            raise InputError(
                f"data set {source}: its {name} names {one_line(pattern)[:120]!r}, which lies outside of it "
                "and is not read; use a copy whose files lie in the data set"
            )


def check_folder(source: str, folder: Path) -> None:
    """Checks the cards of a folder, as ``check_card`` does.

    Raises:
        InputError: a card is too large, or as in ``check_card``.
    """
    for name in (CARD, OTHER_CARD):
        file = folder / name
        if file.exists():
            Boundary(source, (folder,)).check_inside(file)
            content = read_file(file, f"data set {source}: its {name}", most_bytes=MOST_CARD_BYTES)
            check_card(source, content.decode("utf-8", "replace"), name=name)


def check_reader(source: str, builder: Any) -> str:
    """Returns the name of the library's module that reads the data.

    Raises:
        InputError: the module is none for images.
    """
    module = type(builder).__module__.split(".")
    name = module[2] if module[:2] == ["datasets", "packaged_modules"] else module[-1]
    if name not in READERS:
        known = ", ".join(READERS[:-1])
        raise InputError(
            f"data set {source}: its files are read as {name}, which is none of {known}; convert them"
        )
    return name


def _front_matter(text: str) -> str:
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return found[1] if found else ""


def _patterns(value: Any, field: str = "") -> Iterator[str]:
    """Yields every text below a field that names files."""
    if isinstance(value, str) and field in _PLACES:
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _patterns(one, field)
    elif isinstance(value, dict):
        for key, one in value.items():
            inside = field in ("data_files", "path")
            yield from _patterns(one, field if inside else str(key))


def _reaches_out(pattern: str) -> bool:
    words = re.split(r"[/\\]", pattern)
    return "://" in pattern or "::" in pattern or pattern.startswith(("/", "\\", "~")) or ".." in words
