"""What a card says about the plug-ins of a record, as their own classes tell it.

A record may name a plug-in that is not installed here. Then the card claims nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from abd_hub.core.contracts import Defense, PluginFacts, SynthesisMethod
from abd_hub.core.records import RunRecord
from abd_hub.core.registry import find_plugin


def images(record: RunRecord) -> str:
    """What the student learned from, in a few words."""
    if record.training_data:
        return "real images"
    method = find_plugin("synthesizers", record.method)
    return "images" if method is None else str(_fact(method, SynthesisMethod, "images"))


def data_free(record: RunRecord) -> bool:
    """Whether the card may claim that the run used no data; False for a method that is not installed here."""
    method = find_plugin("synthesizers", record.method)
    claimed = method is not None and bool(_fact(method, SynthesisMethod, "data_free"))
    return claimed and record.training_data is None


def evidence_captions(defense: str) -> tuple[tuple[str, str], ...]:
    """(file, caption) of the pictures of what a defense found, its pattern left out."""
    found: tuple[tuple[str, str], ...] = _fact(find_plugin("defenses", defense), Defense, "evidence_captions")
    return found


def citations(record: RunRecord) -> Iterator[str]:
    """BibTeX of every plug-in of the run that has some: method, defenses, student, triggers."""
    report = record.student_report
    named = [
        ("synthesizers", record.method),
        *(("defenses", defense.name) for defense in record.defenses),
        ("students", record.student.architecture.partition(".")[0]),
        *(("triggers", found.trigger) for found in (report.triggers if report else ())),
    ]
    for kind, name in named:
        found = _fact(find_plugin(kind, name), PluginFacts, "citation")
        if found:
            yield str(found)


def _fact(plugin: Any, defaults: type[PluginFacts], name: str) -> Any:
    """Reads an attribute of a plug-in, which may be a function or a class that extends nothing of ours."""
    return getattr(plugin, name, getattr(defaults, name))
