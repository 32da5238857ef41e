"""This module reads the facts for a card from the classes of a record's plug-ins.

A record may name a plug-in that is not installed here. Then the card claims nothing about the plug-in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from abd_hub.core.contracts import Defense, SynthesisMethod
from abd_hub.core.plugin_settings import PluginFacts
from abd_hub.core.records import RunRecord
from abd_hub.core.registry import find_plugin
from abd_hub.publish.cleaning import acted


def images(record: RunRecord) -> str:
    """Describes the images from which the student learned, in a few words."""
    if record.training_data:
        return "real images"
    method = find_plugin("synthesizers", record.method)
    return "images" if method is None else str(_fact(method, SynthesisMethod, "images"))


def data_free(record: RunRecord) -> bool:
    """Returns whether the run used no data; False for a method that is not installed here."""
    method = find_plugin("synthesizers", record.method)
    claimed = method is not None and bool(_fact(method, SynthesisMethod, "data_free"))
    return claimed and record.training_data is None


def evidence_captions(defense: str) -> tuple[tuple[str, str], ...]:
    """Returns (file, caption) of the pictures of a defense's evidence, without its pattern."""
    captions: tuple[tuple[str, str], ...] = _fact(
        find_plugin("defenses", defense), Defense, "evidence_captions"
    )
    return captions


def citations(record: RunRecord) -> Iterator[str]:
    """Yields the BibTeX of the run's plug-ins: the method and all that acted beside it."""
    report = record.student_report
    named = [
        ("synthesizers", record.method),
        *(("defenses", defense.name) for defense in record.defenses),
        ("students", record.student.architecture.partition(".")[0]),
        *(("triggers", attack.trigger) for attack in (report.triggers if report else ())),
        *acted(record.purification, record.student_inspection),
    ]
    yield from _citations(named)


def cleaning_citations(purification: Mapping[str, Any]) -> Iterator[str]:
    """Yields the BibTeX of the purification and the inspections of a report in JSON."""
    yield from _citations(acted(purification))


def _citations(named: Iterable[tuple[str, str]]) -> Iterator[str]:
    for kind, name in named:
        citation = _fact(find_plugin(kind, name), PluginFacts, "citation")
        if citation:
            yield str(citation)


def _fact(plugin: Any, defaults: type[PluginFacts], name: str) -> Any:
    """Reads an attribute of a plug-in, which may also be a function or a class without our base class."""
    return getattr(plugin, name, getattr(defaults, name))
