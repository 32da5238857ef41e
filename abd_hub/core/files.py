"""A file appears whole or not at all, and JSON is read back strictly."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from abd_hub.core.errors import InputError

CONFIG_FILE = "config.yaml"
RECORD_FILE = "metrics.json"
MOST_JSON_BYTES = 100_000_000
"""Largest JSON file of a run's folder, which may take 2 GB when it is read."""
TEMPORARY = re.compile(r"\.abd-tmp-[0-9a-f]{16}-|\.tmp[0-9A-Za-z]{6}$")
"""Names of our temporary files, and of those of safetensors, which a kill leaves behind."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, where the block makes a file or a folder.

    At the end this takes the name ``path``. If the block raises, ``path`` stays as it was and nothing is left
    over. The temporary name keeps the suffix, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".abd-tmp-{secrets.token_hex(8)}-{path.name}")

    try:
        yield temporary
        settle(temporary)
        os.replace(temporary, path)  # noqa: PTH105
        _sync(path.parent)
    finally:
        remove(temporary)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces the file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Replaces the file in one step, in UTF-8 and with unchanged line ends."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any) -> None:
    """Replaces the file in one step.

    Raises:
        ValueError: a number is not finite. JSON has no word for it, and null would hide it.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def clean_temporaries(folder: str | Path) -> None:
    """Removes the temporary files of killed processes, in the folder and below."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if TEMPORARY.match(name):
                remove(Path(parent, name))


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file in a run's folder.

    Raises:
        InputError: the file cannot be read, is too large, or holds no valid JSON.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_JSON_BYTES:
            kind = f"no regular file of at most {MOST_JSON_BYTES // 1_000_000} MB"
            raise InputError(f"{file}: is {kind}; restore the file or run again")
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{file}: {reason}; give the output folder of a finished run") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid JSON ({error}); restore the file or run again") from error


def give_usual_mode(path: Path) -> None:
    """Gives every file the mode that the umask asks for; some writers keep theirs from other users."""
    probe = path.with_name(f"{path.name}.mode")
    probe.unlink(missing_ok=True)  # of a killed process
    try:
        probe.touch(exist_ok=False)
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for file in [path, *path.rglob("*")]:
        if file.is_file() and not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)


def settle(path: Path) -> None:
    """Gives a finished file or folder the usual mode and writes it to the disk, before it gets its name."""
    give_usual_mode(path)
    _sync_tree(path)


def _sync_tree(path: Path) -> None:
    for child in sorted(path.rglob("*")):
        _sync(child)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or a folder; one that cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # or the reason of a failure would be lost
            path.unlink(missing_ok=True)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
