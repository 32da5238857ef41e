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
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        handle = os.open(folder / f"{_LOCK}.part", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The lock file appears with its lock on it, so no other server takes this one for dead.
            (folder / f"{_LOCK}.part").rename(folder / _LOCK)
            yield folder
        finally:
            os.close(handle)


def remove_leftovers() -> None:
    """Removes the folders of this user's servers that live no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink() and _is_free(folder / _LOCK):
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
