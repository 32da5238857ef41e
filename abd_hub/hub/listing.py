"""Files as the Hub lists them: names that stay inside a folder, sizes, hashes."""

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
    """A file as the Hub lists it."""

    name: str
    size: int
    """Bytes."""
    sha256: str | None = None
    git_sha1: str | None = None

    def holds(self, content: Path | bytes) -> bool:
        """Whether these bytes, or those of this file, are what the Hub states."""
        if isinstance(content, bytes):
            return len(content) == self.size and self._matches(io.BytesIO(content))
        if content.stat().st_size != self.size:
            return False
        with content.open("rb") as stream:
            return self._matches(stream)

    def _matches(self, stream: BinaryIO) -> bool:
        digest = hashlib.sha256()
        wanted = self.sha256
        if not wanted:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            wanted = self.git_sha1
        if not wanted:
            return True
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest() == wanted


def remote_file(field: str, repository: str, entry: Any) -> RemoteFile:
    """What the Hub's listing says of one file.

    Args:
        field: for the error.
        repository: ``owner/name``.
        entry: of ``siblings`` of the client's answer.

    Raises:
        InputError: its name leads out of its folder, or it has no size.
    """
    name = entry.rfilename
    if not stays_inside(name):
        raise InputError(
            f"{field}: {repository!r} lists the file {name[:80]!r}, whose name leads out of its folder;"
            " do not use this repository"
        )
    if not isinstance(entry.size, int) or entry.size < 0:
        raise InputError(f"{field}: the Hub does not tell the size of {name!r} in {repository!r}")
    return RemoteFile(name, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)


def stays_inside(name: str) -> bool:
    """Whether a relative path cannot leave its folder, on any system."""
    windows = PureWindowsPath(name)
    if not name or not name.isprintable() or PurePosixPath(name).is_absolute():
        return False
    return not (windows.drive or windows.root or ".." in windows.parts)


def is_commit(text: str) -> bool:
    """Whether this is the full hash of a commit."""
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


MOST_CLASSES = 100_000
"""More is a mistake or an attack: each class costs a label and a row of the last layer."""


def check_classes(config: Mapping[str, Any]) -> str:
    """What is wrong with the number of classes that a config.json states, in any form; empty if nothing."""
    places = [config, *(config.get(part) for part in ("pretrained_cfg", "model_args"))]
    for place in places:
        for name, value in place.items() if isinstance(place, dict) else ():
            count = len(value) if isinstance(value, dict | list) else value
            stated = name in ("num_classes", "num_labels", "id2label", "label2id", "label_names")
            if stated and isinstance(count, int | float) and count > MOST_CLASSES:
                return f"{name} states {count:,} classes; at most {MOST_CLASSES:,} are possible"
    return ""
