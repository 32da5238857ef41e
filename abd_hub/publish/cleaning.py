"""This module reads what a record says of inspections and a purification, for the cards.

A record may be a stranger's. Only the fields that a card shows are read, and each must have its type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from abd_hub.core.errors import InputError
from abd_hub.core.inspections import picture_name
from abd_hub.core.record_file import from_json

T = TypeVar("T")
_FAMILY = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Inspected:
    """Holds what a card says of an inspection."""

    name: str
    flagged: bool
    suspects: tuple[int, ...]
    detail: str


@dataclass(frozen=True)
class Purified:
    """Holds what a card says of a purification."""

    name: str
    changed: bool
    detail: str
    agreement: float


@dataclass(frozen=True)
class _Trigger:
    label: int
    family: str


def cleaning(
    purification: Mapping[str, Any], labels: Sequence[str], student: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the values for the template of inspections and a purification.

    Args:
        purification: report as ``PurificationReport.to_json`` gives it.
        labels: names of the classes.
        student: inspection of the student, as ``InspectionReport.to_json`` gives it.

    Raises:
        InputError: a field of a report is missing or has the wrong type.
    """
    done = _read(Purified, purification, "purification")
    return {
        "purified": done,
        "purified_detail": _sentence(done.detail),
        "before": _found(purification.get("inspected"), labels, "purification.inspected"),
        "after": _found(purification.get("reinspected"), labels, "purification.reinspected"),
        "student": _found(student, labels, "student_inspection"),
    }


def acted(purification: Mapping[str, Any] | None, student: Any = None) -> Iterator[tuple[str, str]]:
    """Yields (kind, name) of the inspections and the purification of a record."""
    report = purification or {}
    inspections = (report.get("inspected"), report.get("reinspected"), student)
    found = [("inspections", each.get("name")) for each in inspections if isinstance(each, Mapping)]
    for kind, name in [("purifications", report.get("name")), *found]:
        if isinstance(name, str):
            yield kind, name


def trigger_pictures(
    purification: Mapping[str, Any] | None, labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yields (file, caption) of the picture of each trigger that was found in the teacher.

    Raises:
        InputError: a field of the report has the wrong type.
    """
    inspected = (purification or {}).get("inspected")
    if not isinstance(inspected, Mapping):
        return
    place = "purification.inspected.triggers"
    listed = inspected.get("triggers")
    for index, each in enumerate(listed if isinstance(listed, list | tuple) else ()):
        trigger = _read(_Trigger, each, f"{place}[{index}]")
        if _FAMILY.fullmatch(trigger.family):  # no other text becomes a path
            name = _classes([trigger.label], labels)
            caption = (
                f"Trigger of the family {trigger.family} that was found in the teacher, to class {name}: "
                "images without and with it, under the teacher's answers"
            )
            yield f"samples/{picture_name(trigger.family, trigger.label)}", caption


def _found(data: Any, labels: Sequence[str], place: str) -> dict[str, Any] | None:
    if data is None:
        return None
    found = _read(Inspected, data, place)
    return {"name": found.name, "finding": _finding(found, data, labels), "detail": _sentence(found.detail)}


def _finding(found: Inspected, data: Mapping[str, Any], labels: Sequence[str]) -> str:
    if found.flagged:
        return f"flagged class {_classes(found.suspects, labels)}"
    searched = data.get("searched")  # older records do not state it
    if isinstance(searched, list | tuple) and 0 < len(searched) < len(labels):
        return f"flagged none of the {len(searched)} classes that it searched"
    return "flagged no class"


def _read(kind: type[T], data: Any, place: str) -> T:
    if not isinstance(data, Mapping):
        raise InputError(f"{place}: must be an object, got {data!r:.80}")
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    try:
        return from_json(kind, {name: data[name] for name in names if name in data})
    except InputError as error:
        raise InputError(f"{place}.{error}") from error


def _classes(numbers: Sequence[int], labels: Sequence[str]) -> str:
    """Returns the classes by their numbers and names; a number without a name stands alone."""
    named = [f"{n} ({labels[n]})" if 0 <= n < len(labels) else str(n) for n in numbers]
    return ", ".join(named)


def _sentence(text: str) -> str:
    """Returns a detail without the full stop with which the template ends it."""
    return text.strip().rstrip(".")
