"""This module collects the files of a Space, with the package beside its app.

A Space installs what its requirements.txt names. No registry has abd-hub, so whoever registers the name there
would run code in the Space. The push sends the package's own files instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import abd_hub
from abd_hub.core.errors import InputError
from abd_hub.publish.front_matter import TAG, front_matter, tags

PACKAGE = "abd_hub"
REQUIREMENTS = "requirements.txt"
_MOST_FILES = 1000
_IMPORTS = re.compile(rf"^\s*(from|import)\s+{PACKAGE}(\.|\s|,|$)", re.MULTILINE)
_OURS = re.compile(r"abd[-_.]+hub\s*(\[[^]]*\]\s*)?(?P<place>@.*|[<>=!~;].*)?", re.IGNORECASE)
_COMMIT = re.compile(r"@\s*git\+https://\S+@[0-9a-f]{40}(#\S*)?\s*(;.*)?")


def space_files(path: Path, card: str) -> dict[str, Path]:
    """Returns the files of a Space by name, without hidden ones and with the package that its code imports.

    Args:
        path: the folder of the Space.
        card: the text of its README.md.

    Raises:
        InputError: the app or the tag is missing, there are too many files, or the requirements name abd-hub
            as a registry would resolve it.
    """
    files = {name: path / name for name in sorted(_names(path))}
    if len(files) > _MOST_FILES:
        raise InputError(
            f"folder: {path} holds {len(files)} files, but a Space may have {_MOST_FILES}; use its own folder"
        )
    start = str(front_matter(card).get("app_file", "app.py"))
    if start not in files:
        raise InputError(f"folder: {path} has no {start!r}, which its README.md names as app_file; add it")
    if TAG not in tags(card):
        raise InputError(f"folder: tags of {path / 'README.md'} lack {TAG!r}; add this tag")

    code = [file for name, file in files.items() if name.endswith(".py")]
    place = str(PurePosixPath(start).parent / PACKAGE)
    own = any(name.startswith(f"{place}/") for name in files)
    if own or _is_pinned(files.get(REQUIREMENTS)) or not any(map(_imports_package, code)):
        return files
    return files | package_files(place)


def package_files(place: str) -> dict[str, Path]:
    """Returns the files of the running package by their names below ``place``."""
    home = Path(abd_hub.__file__).parent
    return {f"{place}/{name}": home / name for name in sorted(_names(home))}


def outdated_package(files: Iterable[str], there: Iterable[str]) -> set[str]:
    """Returns the files of an earlier package in a repository, where ``files`` bring a new one."""
    places = [name.removesuffix("__init__.py") for name in files if name.endswith(f"{PACKAGE}/__init__.py")]
    return {name for name in there for place in places if name.startswith(place)}


def _names(path: Path) -> list[str]:
    files = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    names = (file.relative_to(path).as_posix() for file in files)
    return [name for name in names if not any(_is_left_out(part) for part in name.split("/"))]


def _is_left_out(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__" or part.endswith(".pyc")


def _imports_package(file: Path) -> bool:
    return _IMPORTS.search(file.read_text(encoding="utf-8", errors="replace")) is not None


def _is_pinned(requirements: Path | None) -> bool:
    """Returns whether the requirements name a commit of abd-hub; refuses a name that a registry resolves."""
    text = requirements.read_text(encoding="utf-8", errors="replace") if requirements else ""
    for line in text.splitlines():
        found = _OURS.fullmatch(line.partition(" #")[0].strip())
        if found is None:
            continue
        if _COMMIT.fullmatch(found["place"] or ""):
            return True
        name = line.partition("@")[0].strip()[:80]
        raise InputError(
            f"folder: {REQUIREMENTS} names {name!r} without a commit, so that others decide what it runs; "
            "remove the line, as a push sends the package itself, or put @ git+ADDRESS@COMMIT after the name"
        )
    return False
