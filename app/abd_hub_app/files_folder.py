"""Makes the folder for all files of visitors, and removes the folders of servers that were killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "abd-hub-app-"
_LOCK = ".lock"


@contextlib.contextmanager
def files_folder() -> Iterator[Path]:
    """Makes a folder that goes with this server; a later server removes it if this one is killed."""
    remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    handle = os.open(folder / f"{_LOCK}.part", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The lock file appears with its lock on it, so no other server takes this one for dead.
        (folder / f"{_LOCK}.part").rename(folder / _LOCK)
        yield folder
    finally:
        try:
            _remove(folder)
        finally:
            os.close(handle)


def remove_leftovers() -> None:
    """Removes the folders of this user's servers that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink() and _is_free(folder / _LOCK):
                _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder and its lock last, so that what a kill leaves in the middle is still a leftover."""
    with contextlib.suppress(FileNotFoundError):  # a cleaner of temporary files may have been faster
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink(missing_ok=True)
        if {entry.name for entry in folder.iterdir()} <= {_LOCK}:
            shutil.rmtree(folder, ignore_errors=True)


def _is_free(lock: Path) -> bool:
    # The kernel drops the lock of a process when it dies in any way.
    handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
