"""This module makes the model card, README.md, from a run's record, so that every number is current.

Names and labels come from strangers' files. They are shown as text and can never become markup.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from abd_hub.core import paper
from abd_hub.core.attack_verdicts import means_nothing
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.core.errors import InputError
from abd_hub.core.records import DataRef, EvalReport, ModelRef, RunRecord
from abd_hub.core.verdicts import known_classes, learned, verdict
from abd_hub.hub.listing import is_commit
from abd_hub.publish import plugin_facts
from abd_hub.publish.card_overview import backdoor_works, first_screen
from abd_hub.publish.card_results import report_results, result_rows
from abd_hub.publish.card_snippets import first_lines, snippets
from abd_hub.publish.card_text import Markdown, as_value, code_or_dash, one_line
from abd_hub.publish.cleaning import cleaning, trigger_pictures
from abd_hub.publish.front_matter import TAG, is_license
from abd_hub.publish.own_parts import sealed
from abd_hub.publish.templates import render
from abd_hub.report.evidence import pattern_file

_HUB_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SHIPPED_DATA = "digits"


def render_card(
    record: RunRecord,
    *,
    labels: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    license_id: str | None = None,
    repo_id: str | None = None,
    channels: int = 3,
) -> str:
    """Returns README.md, metadata for the Hub and text; the same input gives the same card.

    Args:
        record: the record of the finished run.
        labels: the student's label names in order.
        pictures: (file relative to the card, caption) of each picture.
        license_id: the Hub's name of the license; None leaves the license out.
        repo_id: the student's repository on the Hub; None shows how to load the folder.
        channels: the channels of the student's input.

    Raises:
        InputError: repo_id is not of the form ``owner/name``, or license_id is no name of a license.
    """
    check_names(repo_id, license_id)
    cleaned = _cleaned(record, labels)
    text = render(
        "student",
        record=record,
        pictures=pictures,
        labels=labels,
        first_lines=first_lines(record.student.architecture, repo_id),
        programs=snippets(record.student.architecture, repo_id, channels),
        **_plugins(record),
        settings=_settings(record),
        cleaned=cleaned,
        **first_screen(record, labels, cleaned),
        **_measured(record),
        **_synthesis(record),
        **_reproduction(record),
    )
    return sealed(card_data(record, labels, license_id).to_yaml(), text)


def _plugins(record: RunRecord) -> dict[str, Any]:
    """Returns the template's values on the run's plug-ins."""
    return {
        "images": plugin_facts.images(record),
        "data_free": plugin_facts.data_free(record),
        "citations": list(dict.fromkeys([paper.CITATION, *plugin_facts.citations(record)])),
    }


def check_names(repo_id: str | None, license_id: str | None) -> None:
    """Refuses names that the Hub would refuse; None is always accepted.

    Raises:
        InputError: a name is wrong.
    """
    if repo_id is not None and not _HUB_ID.fullmatch(repo_id):
        raise InputError(f"repo_id: {repo_id!r} is not of the form owner/name; use for example me/my-model")
    if license_id is not None and not is_license(license_id):
        raise InputError(
            f"license: {license_id!r} is no name of a license; use a name of the Hub, for example apache-2.0"
        )


def run_pictures(record: RunRecord, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (file, caption) of every picture that a run may write."""
    report = record.student_report
    return [
        *trigger_pictures(record.purification, labels),
        ("samples/training_images.png", "Images of the last round, as the teacher received them"),
        *_evidence_pictures([defense.name for defense in record.defenses]),
        ("samples/curves.png", "Training curves"),
        *verdict_pictures([(t.trigger, t.target) for t in report.triggers] if report else [], labels),
    ]


def _evidence_pictures(defenses: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from dict.fromkeys(caption for name in defenses for caption in plugin_facts.evidence_captions(name))
    for name in defenses:
        if _PLUGIN_NAME.fullmatch(name):  # a record may be a stranger's, so no other name becomes a path
            scale = "gray is 0, white and black are plus and minus the largest value"
            yield pattern_file(name), f"Pattern found by {name} in pixel space; {scale}"


def verdict_pictures(attacks: Iterable[tuple[str, int]], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (file, caption) of the picture of each attack; an attack is (trigger, target)."""
    pictures: list[tuple[str, str]] = []
    names: list[str] = []
    for trigger, target in attacks:
        name = f"{trigger}_{target}"
        # Two attacks may differ only in their options.
        file = f"{name}_{len(names)}" if name in names else name
        names.append(name)
        pictures.append((f"samples/verdicts_{file}.png", f"Trigger {trigger}, target {labels[target]}"))
    return pictures


def card_data(record: RunRecord, labels: Sequence[str], license_id: str | None = None) -> ModelCardData:
    """Returns the front matter; rates are fractions between 0 and 1."""
    results = list(report_results(record.data, _meaningful(record, len(labels))))
    kind = ["data-free-distillation"] if plugin_facts.data_free(record) else []
    kind += ["backdoor"] if backdoor_works(verdict(record, len(labels))) else []
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *kind, "knowledge-distillation", TAG],
        base_model=hub_id(record.teacher),
        datasets=_training_data(record),
        license=license_id,
        model_name=one_line(record.student.id) if results else None,
        eval_results=results or None,
    )


def _meaningful(record: RunRecord, classes: int) -> EvalReport | None:
    """Returns the student's report without rates that mean nothing: 0 would read as a defense that works."""
    report, reached = record.student_report, learned(record, classes)
    if report is None:
        return None
    known = known_classes(record) or classes
    kept = [attack for attack in report.triggers if not means_nothing(attack, report, reached, known)]
    return dataclasses.replace(report, triggers=tuple(kept))


def hub_id(model: ModelRef) -> str | None:
    """Returns the name of a model's repository on the Hub; None for a model from elsewhere."""
    # Only a model of the Hub has a revision; "models/teacher" may be somebody's folder.
    name = model.id.removeprefix("hf-hub:").partition("@")[0]
    return name if model.revision and _HUB_ID.fullmatch(name) else None


def _training_data(record: RunRecord) -> list[str] | None:
    data = record.training_data
    return [data.id] if data and data.revision and _HUB_ID.fullmatch(data.id) else None


def _synthesis(record: RunRecord) -> dict[str, Any]:
    """Returns the method's own facts on the images: a table of photographs, or None, and further facts."""
    facts = dict(record.synthesis or {})
    pictures = facts.pop("pictures", None)
    if not isinstance(pictures, list) or not all(isinstance(picture, dict) for picture in pictures):
        pictures = []

    head = list(dict.fromkeys(name for picture in pictures for name in picture))
    rows = [[_value_or_dash(picture.get(name)) for name in head] for picture in pictures]
    return {"photographs": [head, *rows] if pictures else None, "synthesis": facts}


def _value_or_dash(value: Any) -> Markdown:
    return code_or_dash(None) if value is None else as_value(value)


def _settings(record: RunRecord) -> dict[Markdown, Any]:
    """Returns the settings that every method has: schedule, loss and optimizer of the student."""
    settings = record.config.get(record.method)
    names = [field.name for field in dataclasses.fields(SynthesisMethod)]
    if not isinstance(settings, Mapping):
        return {}
    return {Markdown(name): settings[name] for name in names if name in settings}


def _cleaned(record: RunRecord, labels: Sequence[str]) -> dict[str, Any] | None:
    """Returns what is told of inspections and a purification; None where neither was wanted."""
    if record.purification is None:
        return None
    return cleaning(record.purification, labels, record.student_inspection)


def _measured_every(record: RunRecord) -> int | None:
    """Returns the rounds between measurements on test data during training; None without measurements."""
    evaluation = record.config.get("evaluation")
    every = evaluation.get("every") if isinstance(evaluation, Mapping) else None
    return every if isinstance(every, int) and every >= 1 else None


def _measured(record: RunRecord) -> dict[str, Any]:
    """Returns the template's values on measurements; ``results`` is None where nothing was measured."""
    teacher, student = record.teacher_report, record.student_report
    copied = {"purified teacher": record.purified_report} if record.purified_report else {}
    reports = {"teacher": teacher, **copied, "student": student}
    measured = record.data is not None and any(reports.values())
    return {
        "results": list(result_rows(reports, controlled=record.control is not None)) if measured else None,
        "measured_every": _measured_every(record),
    }


def _reproduction(record: RunRecord) -> dict[str, Any]:
    """Returns the template's values on the repetition of the run."""
    config = {name: value for name, value in record.config.items() if name != "teacher_from_python"}
    from_python = len(config) < len(record.config)
    values = reproduction("distill", config, _local_names(record))
    return values | {"from_python": from_python, "options": [] if from_python else _pin(record)}


def _pin(record: RunRecord) -> list[Markdown]:
    """Returns the options that name the teacher's commit, where an older configuration does not."""
    name, commit = hub_id(record.teacher), record.teacher.revision or ""
    settings = record.config.get("teacher")
    named = isinstance(settings, Mapping) and settings.get("revision") == commit
    if name is None or named or not is_commit(commit):
        return []
    # Both have a form that needs no escaping.
    return [Markdown(f"--teacher.id hf-hub:{name}"), Markdown(f"--teacher.revision {commit}")]


def reproduction(command: str, config: Mapping[str, Any], local: Sequence[str]) -> dict[str, Any]:
    """Returns the values for the template of the command that repeats a run.

    Args:
        command: the command of abd-hub.
        config: the whole configuration.
        local: dotted names of the settings that name files of the original machine.
    """
    values = {"command": command, "config": config, "local_files": local}
    return values | {"from_python": False, "options": []}


def _local_names(record: RunRecord) -> list[str]:
    pictures = (record.synthesis or {}).get("pictures")
    names = [p.get("name") for p in pictures if isinstance(p, dict)] if isinstance(pictures, list) else []

    local = {
        "teacher.id": is_local(record.teacher),
        "evaluation.control.id": is_local(record.control),
        "evaluation.dataset": is_local(record.data),
        f"{record.method}.dataset": is_local(record.training_data),
        f"{record.method}.pictures": any(isinstance(name, str) and ":" not in name for name in names),
    }
    return [name for name, yes in local.items() if yes]


def is_local(place: ModelRef | DataRef | None) -> bool:
    """Returns whether a model or data set is a local file or folder; one of the Hub has a commit."""
    return place is not None and place.revision is None and place.id != _SHIPPED_DATA
