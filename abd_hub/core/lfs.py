"""A git clone without git-lfs leaves a short text in place of each large file."""

from __future__ import annotations

from pathlib import Path

_BEGINS = b"version https://git-lfs.github.com/spec/"
_LONGEST = 1024
REMEDY = "is a git-lfs pointer file and not the content; run 'git lfs pull' in its folder"


def is_pointer(path: Path) -> bool:
    """Returns whether a regular file is such a text."""
    if path.stat().st_size > _LONGEST:
        return False
    with path.open("rb") as stream:
        return stream.read(len(_BEGINS)) == _BEGINS
