"""The output folder of a run: who may write into it, how files get there, and the record in it.

A file appears under its name only when it is complete and on the disk, so a run killed at any moment
leaves either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from abd_hub.core.errors import InputError
from abd_hub.core.records import RunRecord, TeacherRecord
from abd_hub.core.yaml_text import YamlError, read_yaml

T = TypeVar("T")
CONFIG_FILE = "config.yaml"
RECORD_FILE = "metrics.json"
SCHEMA_VERSION = 1
_MARK = "# abd-hub run"
_OTHER = "use another --output_dir"
_LOCK_FILE = ".lock"
_NEW_DEFAULTS = {"evaluation.every": 0, "evaluation.every_images": 1000}
"""Options that were added later, with the value under which a run is what it was before."""
_TEMPORARY = re.compile(r"\.abd-tmp-[0-9a-f]{16}-")
_PACKAGES = (
    "abd-hub",
    "torch",
    "timm",
    "transformers",
    "huggingface-hub",
    "datasets",
    "accelerate",
    "gradio",
)


class OutputFolder:
    """A folder that this process alone writes to until it leaves the ``with`` block, or dies.

    A block that fails before anything but the configuration was written leaves the disk as it found it.
    """

    def __init__(self, path: Path, lock: int, made: list[Path], begun_here: bool) -> None:
        self.path = path
        self.begun_here = begun_here
        """False when an earlier process began this run and this one continues it."""
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
        """Claims ``path`` for a run with this configuration; makes it when it does not exist.

        Args:
            path: a new, an empty, or (with ``resume``) an unfinished folder of the same run.
            resume: continue what is there; where nothing is there, begin.
            config_yaml: the whole configuration; stored, and compared when resuming.
            may_differ: top-level fields that are allowed to change between starts.

        Raises:
            InputError: the folder may not be used; nothing on the disk has changed then.
        """
        path = Path(path)
        with _explained(path):
            _check_place(path)
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
        """Lets others in; after a failure also takes back a folder that holds no result yet."""
        if self._lock < 0:
            return
        untouched = {CONFIG_FILE, _LOCK_FILE}.issuperset(os.listdir(self.path))  # noqa: PTH208
        if failed and self.begun_here and untouched:
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
        _unlock(self.path, self._lock)
        self._lock = -1
        if failed:
            _remove_empty(self._made)


def check_place(path: str | Path) -> None:
    """Refuses a folder that ``OutputFolder.open`` could not use, without touching the disk.

    Raises:
        InputError: it is a file, cannot be written, or holds files of somebody else.
    """
    with _explained(Path(path)):
        _check_place(Path(path))


def in_use(path: str | Path) -> bool:
    """Whether a process that is alive has claimed the folder.

    For its supervisor only: the look takes the lock for a moment, in which another process is refused.
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


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what the block makes there takes its name at the end.

    The block makes a file or a folder. If it raises, ``path`` stays as it was and nothing is left over.
    The temporary name keeps the suffix, for writers that choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".abd-tmp-{secrets.token_hex(8)}-{path.name}")
    try:
        yield temporary
        _sync_tree(temporary)
        os.replace(temporary, path)  # noqa: PTH105
        _sync(path.parent)
    finally:
        _remove(temporary)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces the file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Replaces the file in one step; UTF-8, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any) -> None:
    """Replaces the file in one step.

    Raises:
        ValueError: a number is not finite; JSON has no word for it, and null would hide it.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_config(folder: str | Path, config_yaml: str) -> None:
    """Replaces config.yaml in one step; its first line marks the folder as one of ours."""
    text = config_yaml if _has_mark(config_yaml) else f"{_MARK}\n{config_yaml}"
    write_text(Path(folder) / CONFIG_FILE, text)


def clean_temporaries(folder: str | Path) -> None:
    """Removes what a killed process was writing, here and in the folders below."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if _TEMPORARY.match(name):
                _remove(Path(parent, name))


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """The content of metrics.json; both reports move under ``results``.

    Raises:
        ValueError: a number is not finite.
        TypeError: a free-form field holds something that is no JSON value.
    """
    data: dict[str, Any] = _plain(record, "record")
    results = {"teacher": data.pop("teacher_report"), "student": data.pop("student_report")}
    return {"schema_version": data.pop("schema_version"), **data, "results": results}


def to_json(value: Any, name: str) -> Any:
    """Dataclasses, mappings and sequences as JSON values.

    Args:
        value: nested; of anything else than JSON values it may hold dataclasses and tuples.
        name: of the value, for messages.

    Raises:
        ValueError: a number is not finite.
        TypeError: something in it is no JSON value.
    """
    return _plain(value, name)


def from_json(kind: type[T], data: Any) -> T:
    """The inverse of ``to_json`` for a dataclass.

    Raises:
        InputError: a field is missing, unknown, of the wrong type or not finite.
    """
    found = _decode(kind, data, "")
    assert isinstance(found, kind)
    return found


def record_from_json(data: Any) -> RunRecord:
    """The inverse of ``record_to_json``.

    Raises:
        InputError: another schema version, or a field that is missing, unknown or of the wrong type.
    """
    _check_version(data)
    flat = dict(data)
    results = flat.pop("results", None)
    if not isinstance(results, dict) or set(results) != {"teacher", "student"}:
        raise InputError("results: must hold 'teacher' and 'student', null where not evaluated")
    clash = {"teacher_report", "student_report"} & set(flat)
    if clash:
        raise InputError(f"{min(clash)}: unknown field; reports belong under 'results'")
    record = _decode(RunRecord, flat | {f"{who}_report": results[who] for who in results}, "")
    assert isinstance(record, RunRecord)
    return record


def read_record(folder: str | Path) -> RunRecord:
    """The record of a finished distillation.

    Raises:
        InputError: there is none, or it cannot be understood.
    """
    return _read(folder, record_from_json)


def read_teacher_record(folder: str | Path) -> TeacherRecord:
    """The record of a teacher that was trained here.

    Raises:
        InputError: there is none, or it cannot be understood.
    """
    return _read(folder, _teacher_record_from_json)


def read_any_record(folder: str | Path) -> RunRecord | TeacherRecord:
    """The record of a finished distillation, or of a teacher that was trained here.

    Raises:
        InputError: there is none, or it cannot be understood.
    """
    return _read(folder, any_record_from_json)


def any_record_from_json(data: Any) -> RunRecord | TeacherRecord:
    """The record of a distillation or of a teacher.

    Raises:
        InputError: as ``record_from_json``.
    """
    trained = isinstance(data, dict) and "kind" in data
    return _teacher_record_from_json(data) if trained else record_from_json(data)


def _teacher_record_from_json(data: Any) -> TeacherRecord:
    _check_version(data)
    if data.get("kind") != "teacher":
        raise InputError("kind: this is no record of a teacher; give the output folder of abd-hub poison")
    record = _decode(TeacherRecord, data, "")
    assert isinstance(record, TeacherRecord)
    return record


def _check_version(data: Any) -> None:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        remedy = f"this abd-hub reads {SCHEMA_VERSION}; use the abd-hub that wrote it"
        raise InputError(f"schema_version: {version!r} is unknown, {remedy}")


def read_json(file: Path) -> Any:
    """The content of a JSON file of a run's folder.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{file}: {reason}; give the output folder of a finished run") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not valid JSON ({error}); restore the file or run again") from error


def _read(folder: str | Path, decode: Callable[[Any], T]) -> T:
    file = Path(folder) / RECORD_FILE
    data = read_json(file)
    try:
        return decode(data)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def environment() -> dict[str, str]:
    """Versions of Python, the platform and the packages that matter; imports none of them."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _claim(path: Path, resume: bool, config_yaml: str, may_differ: Collection[str]) -> bool:
    """Under the lock: begins the run or checks that it may go on; returns whether it begins."""
    # Once more, because another process may have come first between the check and the lock.
    _check_place(path)
    begins = not _is_ours(path)
    if begins:
        write_config(path, config_yaml)
    else:
        _check_run(path, resume, config_yaml, may_differ)
    clean_temporaries(path)
    return begins


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"output_dir: {path} cannot be used ({reason}); {_OTHER}") from error


def _check_place(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError(f"output_dir: {path} is a link to nowhere; {_OTHER}")
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise InputError(f"output_dir: {nearest} is a file; {_OTHER}")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"output_dir: {nearest} is not writable; {_OTHER}")
    if path.is_dir() and not _is_ours(path) and not _is_empty(path):
        raise InputError(f"output_dir: {path} holds files that abd-hub did not write; {_OTHER}")


def _check_run(path: Path, resume: bool, config_yaml: str, may_differ: Collection[str]) -> None:
    if (path / RECORD_FILE).exists():
        raise InputError(f"output_dir: {path} holds a finished run; {_OTHER}")
    if not resume:
        remedy = f"continue it with --resume true or {_OTHER}"
        raise InputError(f"output_dir: {path} holds an unfinished run; {remedy}")
    stored = _without(_parse((path / CONFIG_FILE).read_text(encoding="utf-8"), path), may_differ)
    wanted = _without(_parse(config_yaml, path), may_differ)
    difference = _first_difference(stored, wanted)
    if difference:
        raise InputError(f"{difference}; resume with {path / CONFIG_FILE} or {_OTHER}")


def _is_ours(path: Path) -> bool:
    try:
        with (path / CONFIG_FILE).open(encoding="utf-8") as file:
            return _has_mark(file.readline(len(_MARK) + 1))
    except (OSError, UnicodeDecodeError):
        return False


def _has_mark(text: str) -> bool:
    return text.partition("\n")[0] == _MARK


def _is_empty(path: Path) -> bool:
    # A process that died before it wrote the configuration leaves a lock file or a temporary.
    names = {entry.name for entry in path.iterdir()}
    return all(name == _LOCK_FILE or _TEMPORARY.match(name) for name in names)


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
            found = _first_difference(old, new, f"{name}.")
            if found:
                return found
        elif key not in stored and _is_off(name, new):
            continue  # an option that was added after the run began, and is off
        elif old != new or (key in stored) != (key in wanted):
            return f"{name}: is {new!r} now and was {old!r} when the run began"
    return None


def _is_off(name: str, value: Any) -> bool:
    return value is None or value is False or value == [] or value == _NEW_DEFAULTS.get(name)


def _make_folders(path: Path) -> list[Path]:
    """Makes what is missing; returns it, innermost first."""
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
    # The kernel drops a flock when its holder dies, however it dies, so a left-over file locks nobody out.
    file = folder / _LOCK_FILE
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder removes the file as it leaves: a lock on a removed file protects nothing.
        current = file.exists() and os.path.samestat(os.fstat(handle), file.stat())
    except BlockingIOError:
        current = False
    except OSError:
        os.close(handle)
        raise
    if not current:
        os.close(handle)
        raise InputError(f"output_dir: {folder} is in use by another process; wait or {_OTHER}")
    return handle


def _unlock(folder: Path, handle: int) -> None:
    (folder / _LOCK_FILE).unlink(missing_ok=True)
    os.close(handle)


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} is not finite")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), f"{where}.{name}") for name in names}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{where}: key {wrong[0]!r} is not a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} is no JSON value")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` from JSON as the annotated type ``kind``; ``where`` is its dotted place for messages."""
    arguments = typing.get_args(kind)
    if kind is Any or (value is None and type(None) in arguments):
        return value
    if type(None) in arguments:
        kind = next(option for option in arguments if option is not type(None))
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if typing.get_origin(kind):
        return _decode_container(kind, value, where)
    # Not isfinite, which fails for integers that are too large to become a float.
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is kind and kind is not float:
        return value
    raise InputError(f"{where}: expected {kind.__name__}, found {value!r:.80}")


def _decode_container(kind: Any, value: Any, where: str) -> Any:
    item_kind = typing.get_args(kind)[0 if typing.get_origin(kind) is tuple else 1]
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_decode(item_kind, item, f"{where}[{index}]") for index, item in enumerate(value))
    if typing.get_origin(kind) is Mapping and isinstance(value, dict):
        return {key: _decode(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    raise InputError(f"{where}: expected {kind}, found {value!r:.80}")


def _decode_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected object, found {value!r:.80}")
    prefix = f"{where}." if where else ""
    hints = typing.get_type_hints(kind)
    # A field that is None unless asked for: records from before it was added do not have it.
    optional = {field.name for field in dataclasses.fields(kind) if field.default is None}
    for name in [*value, *hints]:
        if name not in hints:
            raise InputError(f"{prefix}{name}: unknown field")
        if name not in value and name not in optional:
            raise InputError(f"{prefix}{name}: missing")
    return kind(
        **{name: _decode(hint, value[name], prefix + name) for name, hint in hints.items() if name in value}
    )
