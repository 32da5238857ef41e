"""This module writes records as metrics.json and reads them back."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from abd_hub import __version__
from abd_hub.core.errors import InputError
from abd_hub.core.faults import MISSING, STRICT, dotted, first_fault
from abd_hub.core.files import RECORD_FILE, read_json
from abd_hub.core.purifications import REPORT_FILE
from abd_hub.core.records import PURIFIED, PurifiedRecord, RunRecord, TeacherRecord
from abd_hub.core.verdicts import verdict

T = TypeVar("T")
SCHEMA_VERSION = 1
VERDICT = "verdict"
"""Key of the findings in metrics.json; they are written for people and other programs, and never read."""
_RESULTS: dict[int | str, tuple[str, str]] = {
    "teacher_report": ("results", "teacher"),
    "student_report": ("results", "student"),
    "purified_report": ("results", "purified"),
}
"""Places in the file for these fields of a record."""
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


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """Returns the content of metrics.json; the reports move under ``results``, and the verdict is added.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is no JSON value.
    """
    data: dict[str, Any] = _plain(record, "record")
    results = {"teacher": data.pop("teacher_report"), "student": data.pop("student_report")}
    purified = data.pop("purified_report")
    if purified is not None:
        results["purified"] = purified
    judged = to_json(verdict(record), VERDICT)
    return {"schema_version": data.pop("schema_version"), VERDICT: judged, **data, "results": results}


def to_json(value: Any, name: str) -> Any:
    """Returns dataclasses, mappings and sequences as JSON values.

    Args:
        value: nested JSON values, in which dataclasses and tuples may stand too.
        name: name of the value in messages.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is no JSON value.
    """
    return _plain(value, name)


def from_json(kind: type[T], data: Any) -> T:
    """Returns the dataclass of JSON values: the inverse of ``to_json``.

    Raises:
        InputError: a field is missing, unknown, of the wrong type or not finite.
    """
    value = _decode(kind, data)
    assert isinstance(value, kind)
    return value


def record_from_json(data: Any) -> RunRecord:
    """Returns the record of a file's content: the inverse of ``record_to_json``.

    The verdict in the file is left out, because it follows from the numbers.

    Raises:
        InputError: the schema version is another, or a field is missing, unknown or of the wrong type.
    """
    _check_version(data)

    flat = dict(data)
    flat.pop(VERDICT, None)
    results = flat.pop("results", None)
    if not isinstance(results, dict) or set(results) - {"purified"} != {"teacher", "student"}:
        raise InputError("results: must hold 'teacher' and 'student', null where not evaluated")

    clash = {"teacher_report", "student_report", "purified_report"} & set(flat)
    if clash:
        raise InputError(f"{min(clash)}: unknown field; reports belong under 'results'")

    reports = {f"{who}_report": results[who] for who in results}
    record: RunRecord = _decode(RunRecord, flat | reports)
    return record


def read_record(folder: str | Path) -> RunRecord:
    """Returns the record of a finished distillation.

    Raises:
        InputError: the folder holds none, or none that can be read.
    """
    return _read(folder, record_from_json).at(folder)


def read_teacher_record(folder: str | Path) -> TeacherRecord:
    """Returns the record of a teacher that abd-hub has trained.

    Raises:
        InputError: the folder holds none, or none that can be read.
    """
    return _read(folder, _teacher_record_from_json)


def read_any_record(folder: str | Path) -> RunRecord | TeacherRecord:
    """Returns the record of a finished distillation, or of a teacher that abd-hub has trained.

    Raises:
        InputError: the folder holds none, or none that can be read.
    """
    return _read(folder, _run_or_teacher_from_json)


def read_purified_record(folder: str | Path) -> PurifiedRecord:
    """Returns the record of a purified copy.

    Raises:
        InputError: the folder holds none, or none that can be read.
    """
    return _read(folder, _purified_record_from_json, REPORT_FILE)


def any_record_from_json(data: Any) -> RunRecord | TeacherRecord | PurifiedRecord:
    """Returns the record of a distillation, a teacher or a purified copy from a file's content.

    Raises:
        InputError: as in ``record_from_json``.
    """
    if isinstance(data, dict) and data.get("kind") == PURIFIED:
        return _purified_record_from_json(data)
    return _run_or_teacher_from_json(data)


def _run_or_teacher_from_json(data: Any) -> RunRecord | TeacherRecord:
    trained = isinstance(data, dict) and "kind" in data
    return _teacher_record_from_json(data) if trained else record_from_json(data)


def _teacher_record_from_json(data: Any) -> TeacherRecord:
    _check_version(data)
    if data.get("kind") != "teacher":
        raise InputError("kind: this is no record of a teacher; give the output folder of abd-hub poison")
    record: TeacherRecord = _decode(TeacherRecord, data)
    return record


def _purified_record_from_json(data: Any) -> PurifiedRecord:
    _check_version(data)
    if data.get("kind") != PURIFIED:
        raise InputError("kind: this is no record of a copy; give the output folder of abd-hub purify")
    record: PurifiedRecord = _decode(PurifiedRecord, data)
    return record


def _check_version(data: Any) -> None:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        remedy = f"this abd-hub reads {SCHEMA_VERSION}; use the abd-hub that wrote it"
        raise InputError(f"schema_version: {version!r} is unknown, {remedy}")


def _read(folder: str | Path, decode: Callable[[Any], T], name: str = RECORD_FILE) -> T:
    file = Path(folder) / name
    data = read_json(file)
    try:
        return decode(data)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def environment() -> dict[str, str]:
    """Returns the versions of Python, the platform and the packages that matter; imports none of them."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    versions.setdefault("abd-hub", __version__)  # a Space has the package's files without an installation
    return versions


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


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    # A tuple hands its configuration on to the dataclasses in it, which have none of their own.
    return TypeAdapter(tuple[kind], config=STRICT)


def _decode(kind: Any, data: Any) -> Any:
    """Returns ``data`` from JSON as the dataclass ``kind``."""
    try:
        # Only from JSON text does a strict reader take lists as tuples and objects as dataclasses.
        (value,) = _reader(kind).validate_json(json.dumps([data]))
    except ValidationError as error:
        place, rule, wrong = first_fault(error)
        shown = "" if rule == MISSING else f", got {wrong!r:.80}"
        raise InputError(f"{_dotted(place[1:])}: {rule}{shown}") from error

    _refuse_filled(dataclasses.asdict(value), data, ())
    return value


def _refuse_filled(value: Any, data: Any, place: tuple[int | str, ...]) -> None:
    """Refuses a field that the file lacks. None is allowed: then the record is older than the field."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in data:
                _refuse_filled(item, data[name], (*place, name))
            elif item is not None:
                raise InputError(f"{_dotted((*place, name))}: {MISSING}")
    elif isinstance(value, list | tuple):
        for index, (item, item_in_file) in enumerate(zip(value, data, strict=True)):
            _refuse_filled(item, item_in_file, (*place, index))


def _dotted(place: tuple[int | str, ...]) -> str:
    """Returns the place within the file, where both reports stand under ``results``."""
    return dotted((*_RESULTS.get(place[0], place[:1]), *place[1:])) if place else "content"
