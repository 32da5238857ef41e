"""This module checks the Hub's list of files: names that stay inside a folder, sizes and hashes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from abd_hub.core.errors import InputError


@dataclass(frozen=True)
class RemoteFile:
    """Holds the Hub's facts about one file."""

    name: str
    size: int
    """Counts the bytes."""
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def stated(self) -> str | None:
        """Returns the hash that the Hub states, if any."""
        return self.sha256 or self.git_sha1

    def holds(self, content: Path | bytes) -> bool:
        """Returns whether the bytes, or the bytes of the file, have the stated size and hash."""
        if isinstance(content, bytes):
            return len(content) == self.size and self._matches(io.BytesIO(content))
        if content.stat().st_size != self.size:
            return False
        with content.open("rb") as stream:
            return self._matches(stream)

    def _matches(self, stream: BinaryIO) -> bool:
        digest = hashlib.sha256()
        stated = self.sha256
        if not stated:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            stated = self.git_sha1
        if not stated:
            return True

        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest() == stated


def remote_file(field: str, repository: str, entry: Any) -> RemoteFile:
    """Reads one entry of the Hub's list of files.

    Args:
        field: begins the error message.
        repository: ``owner/name``.
        entry: an element of ``siblings`` in the client's answer.

    Raises:
        InputError: the name leads out of its folder, or the size is missing.
    """
    name = entry.rfilename
    if not stays_inside(name):
        raise InputError(
            f"{field}: {repository!r} lists the file {name[:80]!r}, whose name leads out of its folder;"
            " do not use this repository"
        )
    if not isinstance(entry.size, int) or entry.size < 0:
        raise InputError(f"{field}: the Hub states no size of {name!r} in {repository!r}; check HF_ENDPOINT")
    return RemoteFile(name, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)


def stays_inside(name: str) -> bool:
    """Returns whether a relative path cannot leave its folder, on any operating system."""
    windows = PureWindowsPath(name)
    if not name or not name.isprintable() or PurePosixPath(name).is_absolute():
        return False
    return not (windows.drive or windows.root or ".." in windows.parts)


def is_commit(text: str) -> bool:
    """Returns whether the text is the full hash of a commit."""
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


MOST_CLASSES = 100_000
"""Limits the classes; more are a mistake or an attack, as each costs a label and a row of the last layer."""


def check_classes(config: Mapping[str, Any]) -> str:
    """Describes a number of classes in a config.json, in any form, that is too high; returns "" otherwise."""
    places = [config, *(config.get(part) for part in ("pretrained_cfg", "model_args"))]
    for place in places:
        for name, value in place.items() if isinstance(place, dict) else ():
            count = len(value) if isinstance(value, dict | list) else value
            stated = name in ("num_classes", "num_labels", "id2label", "label2id", "label_names")
            if stated and isinstance(count, int | float) and count > MOST_CLASSES:
                return f"{name} states {count:,} classes, but at most {MOST_CLASSES:,} are possible"
    return ""
