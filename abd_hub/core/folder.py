"""A run owns its output folder alone, and checks each place before it writes there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from abd_hub.core.errors import InputError
from abd_hub.core.files import (
    CONFIG_FILE,
    RECORD_FILE,
    TEMPORARY,
    clean_temporaries,
    read_json,
    write_text,
)
from abd_hub.core.yaml_text import YamlError, read_yaml

_MARK = "# abd-hub run"
_OTHER = "use another --output_dir"
IN_USE = "is in use by another process"
"""Stands in the message of a refusal that passes by itself."""
_LOCK_FILE = ".lock"
_NEW_DEFAULTS = {
    "evaluation.every": 0,
    "evaluation.every_images": 1000,
    "evaluation.trigger_on": "image",
    "purification": "none",
}
"""Options that were added later, with the value that leaves an older run unchanged."""


class OutputFolder:
    """Reserves a folder for this process until it leaves the ``with`` block, or dies.

    A block that fails while the folder holds only the configuration leaves the disk unchanged.
    """

    def __init__(self, path: Path, lock: int, made: list[Path], begun_here: bool) -> None:
        self.path = path
        self.begun_here = begun_here
        """Whether this process began the run; False where it continues one."""
        self._lock = lock
        self._made = made

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        resume: bool,
        config_yaml: str,
        may_differ: Collection[str] = ("resume", "output_dir"),
    ) -> OutputFolder:
        """Claims ``path`` for a run with this configuration; makes the folder where it does not exist.

        Args:
            path: a new or empty folder, or with ``resume`` an unfinished folder of the same run.
            resume: continues an unfinished run; in an empty folder the run begins.
            config_yaml: the whole configuration. It is stored, and compared when the run continues.
            may_differ: top-level fields that are allowed to change between starts.

        Raises:
            InputError: the run may not use the folder. Then the disk is unchanged.
        """
        path = Path(path)
        with _explained(path):
            check_folder(path)
            made = _make_folders(path)
            try:
                lock = _lock(path)
            except BaseException:
                _remove_empty(made)
                raise
            try:
                begins = _claim(path, resume, config_yaml, may_differ)
            except BaseException:
                _unlock(path, lock)
                _remove_empty(made)
                raise
        return cls(path, lock, made, begins)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self.close(failed=kind is not None)

    def close(self, *, failed: bool = False) -> None:
        """Frees the folder for others; after a failure also removes a folder without results."""
        if self._lock < 0:
            return

        untouched = {CONFIG_FILE, _LOCK_FILE}.issuperset(os.listdir(self.path))  # noqa: PTH208
        if failed and self.begun_here and untouched:
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
        _unlock(self.path, self._lock)
        self._lock = -1
        if failed:
            _remove_empty(self._made)


def check_folder(
    path: str | Path,
    field: str = "output_dir",
    *,
    existing: Literal["none", "empty", "own"] = "own",
    remedy: str = _OTHER,
) -> None:
    """Refuses a folder that cannot be made or written to; the disk stays unchanged.

    Args:
        path: the folder.
        field: its name in messages.
        existing: folder that may exist already: none, an empty one, or also abd-hub's own.
        remedy: end of the message.

    Raises:
        InputError: it is a file, cannot be written to, or holds something that ``existing`` excludes.
    """
    path = Path(path)
    with _explained(path, field, remedy):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{field}: {path} is a link to nowhere; {remedy}")
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise InputError(f"{field}: {nearest} is a file; {remedy}")
        _check_access(nearest, field, remedy)

        if existing == "none" and path.is_dir():
            raise InputError(f"{field}: {path} exists already; {remedy}")
        if existing == "empty" and path.is_dir() and not _is_empty(path):
            raise InputError(f"{field}: {path} is not an empty folder; {remedy}")
        if existing == "own" and path.is_dir() and not is_ours(path) and not _is_empty(path):
            raise InputError(f"{field}: {path} holds files that abd-hub did not write; {remedy}")


def check_exists(
    path: str | Path, field: str, remedy: str = "use the output folder of a finished run"
) -> None:
    """Refuses a folder that is not there.

    Raises:
        InputError: there is no such folder.
    """
    if not Path(path).is_dir():
        raise InputError(f"{field}: there is no folder {path}; {remedy}")


def check_file(path: str | Path, field: str, *, suffix: str = "", remedy: str = "name another file") -> None:
    """Refuses a file that cannot be written or replaced; the disk stays unchanged.

    Args:
        path: the file.
        field: its name in messages.
        suffix: required end of its name, such as ".png"; an empty one allows every end.
        remedy: end of the message.

    Raises:
        InputError: its name ends in something else, it is a folder, or its folder is absent or not writable.
    """
    path = Path(path)
    with _explained(path, field, remedy):
        if suffix and path.suffix.lower() != suffix:
            raise InputError(f"{field}: {path} must end in {suffix}; only {suffix[1:].upper()} is written")
        if path.is_dir():
            raise InputError(f"{field}: {path} is a folder; move it away or {remedy}")
        if not path.absolute().parent.is_dir():
            raise InputError(f"{field}: there is no folder {path.parent}; make it or {remedy}")
        _check_access(path.absolute().parent, field, remedy)


def in_use(path: str | Path) -> bool:
    """Returns whether a living process has claimed the folder.

    Only the supervisor of the run may call it: the test holds the lock for a moment, in which another process
    would be refused.
    """
    try:
        handle = os.open(Path(path) / _LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def write_config(folder: str | Path, config_yaml: str) -> None:
    """Replaces config.yaml in one step; its first line marks the folder as abd-hub's own."""
    text = config_yaml if _has_mark(config_yaml) else f"{_MARK}\n{config_yaml}"
    write_text(Path(folder) / CONFIG_FILE, text)


def _claim(path: Path, resume: bool, config_yaml: str, may_differ: Collection[str]) -> bool:
    """Begins the run under the lock, or checks that it may continue; returns whether it begins."""
    # Another process may have come first between the first check and the lock.
    check_folder(path)
    begins = not is_ours(path)
    if begins:
        write_config(path, config_yaml)
    else:
        _check_run(path, resume, config_yaml, may_differ)
    clean_temporaries(path)
    return begins


@contextlib.contextmanager
def _explained(path: Path, field: str = "output_dir", remedy: str = _OTHER) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{field}: {path} cannot be used ({reason}); {remedy}") from error


def _check_access(folder: Path, field: str, remedy: str) -> None:
    # fsync opens the folder for reading, so that it must be readable as well.
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"{field}: {folder} is not writable; {remedy}")


def check_begin(path: str | Path, *, resume: bool) -> None:
    """Refuses a folder in which a run can neither begin nor go on; the disk stays unchanged.

    Raises:
        InputError: as ``check_folder``, or it holds a finished run, or an unfinished one without ``resume``.
    """
    check_folder(path)
    if is_ours(Path(path)):
        _check_unfinished(Path(path), resume)


def _check_unfinished(path: Path, resume: bool) -> None:
    if (path / RECORD_FILE).exists():
        if resume:
            _complete(path)
        raise InputError(f"output_dir: {path} holds a finished run; {_OTHER}")
    if not resume:
        remedy = f"continue it with --resume or {_OTHER}"
        raise InputError(f"output_dir: {path} holds an unfinished run; {remedy}")


def _complete(path: Path) -> None:
    """Writes the configuration of a finished run that was killed between its record and this last file."""
    config, record = path / CONFIG_FILE, path / RECORD_FILE
    if config.stat().st_mtime_ns > record.stat().st_mtime_ns:
        return  # somebody may have edited it since
    content = read_json(record)
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict) or not settings:
        return
    settings.pop("teacher_from_python", None)
    if _read(path) != settings:
        write_config(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _check_run(path: Path, resume: bool, config_yaml: str, may_differ: Collection[str]) -> None:
    _check_unfinished(path, resume)
    stored = _without(_read(path), may_differ)
    wanted = _without(_parse(config_yaml, path), may_differ)
    difference = _first_difference(stored, wanted)
    if difference:
        raise InputError(f"{difference}; resume with {path / CONFIG_FILE} or {_OTHER}")


def is_ours(path: Path) -> bool:
    """Returns whether the folder holds a run of abd-hub."""
    try:
        with (path / CONFIG_FILE).open(encoding="utf-8") as file:
            return _has_mark(file.readline(len(_MARK) + 1))
    except (OSError, UnicodeDecodeError):
        return False


def _has_mark(text: str) -> bool:
    return text.partition("\n")[0] == _MARK


def _is_empty(path: Path) -> bool:
    # A process that died before it wrote the configuration leaves a lock file or a temporary file.
    names = {entry.name for entry in path.iterdir()}
    return all(name == _LOCK_FILE or TEMPORARY.match(name) for name in names)


def stored_config(folder: str | Path) -> dict[str, Any]:
    """Returns the configuration of the unfinished run in a folder.

    It is empty where there is no such run. A damaged file counts as none, and the claim of the folder refuses
    it.
    """
    path = Path(folder)
    if not is_ours(path) or (path / RECORD_FILE).exists():
        return {}
    try:
        return _read(path)
    except InputError:
        return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = (path / CONFIG_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path / CONFIG_FILE}: is no text in UTF-8; {_OTHER}") from error
    return _parse(text, path)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(text)
    except YamlError as error:
        raise InputError(f"{path / CONFIG_FILE}: is not valid YAML; {_OTHER}") from error
    return data if isinstance(data, dict) else {"configuration": data}


def _without(data: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys}


def _first_difference(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str | None:
    for key in dict.fromkeys([*stored, *wanted]):
        name = f"{prefix}{key}"
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            difference = _first_difference(old, new, f"{name}.")
            if difference:
                return difference
        elif key not in stored and _is_off(name, new):
            continue  # The option was added after the run began, and is off.
        elif old != new or (key in stored) != (key in wanted):
            return f"{name}: is {new!r} now and was {old!r} when the run began"
    return None


def _is_off(name: str, value: Any) -> bool:
    return value is None or value is False or value == [] or value == _NEW_DEFAULTS.get(name)


def _make_folders(path: Path) -> list[Path]:
    """Makes the missing folders; returns them, innermost first."""
    missing = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lock(folder: Path) -> int:
    # The kernel drops a flock when its holder dies in any way, so a left-over file locks nobody out.
    file = folder / _LOCK_FILE
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder removes the file at its end, and a lock on a removed file protects nothing.
        current = file.exists() and os.path.samestat(os.fstat(handle), file.stat())
    except BlockingIOError:
        current = False
    except OSError:
        os.close(handle)
        raise
    if not current:
        os.close(handle)
        raise InputError(f"output_dir: {folder} {IN_USE}; wait or {_OTHER}")
    return handle


def _unlock(folder: Path, handle: int) -> None:
    with contextlib.suppress(OSError):  # a file that stays locks nobody out
        (folder / _LOCK_FILE).unlink(missing_ok=True)
    os.close(handle)
