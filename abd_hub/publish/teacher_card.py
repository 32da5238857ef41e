"""This module makes the model card of a teacher; the card first states whether the model is poisoned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from abd_hub.core.records import PoisonFacts, Rate, TeacherRecord
from abd_hub.publish.card import check_names, is_local, reproduction, verdict_pictures
from abd_hub.publish.card_results import all_to_all_result, rate_cell, report_results, result_rows
from abd_hub.publish.card_snippets import snippets
from abd_hub.publish.card_text import Markdown, as_code, one_line
from abd_hub.publish.front_matter import TAG
from abd_hub.publish.own_parts import sealed
from abd_hub.publish.templates import render


def render_teacher_card(
    record: TeacherRecord,
    labels: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    license_id: str | None = None,
    repo_id: str | None = None,
    channels: int = 3,
) -> str:
    """Returns README.md of a teacher's folder; the same input gives the same card.

    Args:
        record: the record of the finished run.
        labels: label names in order.
        pictures: (file relative to the card, caption) of each picture.
        license_id: the Hub's name of the license; None leaves the license out.
        repo_id: the teacher's repository on the Hub; None shows how to load the folder.
        channels: the channels of the teacher's input.

    Raises:
        InputError: repo_id is not of the form ``owner/name``, or license_id is no name of a license.
    """
    check_names(repo_id, license_id)
    local = {
        "data.dataset": is_local(record.training_data),
        "evaluation.dataset": is_local(record.data) and record.data.id != record.training_data.id,
        "evaluation.control.id": is_local(record.control),
    }
    text = render(
        "teacher",
        record=record,
        poison=record.poison,
        results=_result_rows(record),
        **_planted(record, labels),
        pictures=pictures,
        labels=labels,
        programs=snippets(record.model.architecture, repo_id, channels),
        **reproduction("poison", record.config, [name for name, yes in local.items() if yes]),
    )
    return sealed(_card_data(record, license_id).to_yaml(), text)


def _planted(record: TeacherRecord, labels: Sequence[str]) -> dict[str, Any]:
    """Returns the template's values on the planted attack."""
    return {"succeeds": _success(record), "target": _target_name(record.poison, labels)}


def _success(record: TeacherRecord) -> Rate | None:
    """Returns how often the trigger of the training succeeds; None where other attacks were measured."""
    poison = record.poison
    if poison is None or poison.labels == "all_to_all":
        return record.all_to_all if poison else None
    planted = (poison.trigger, poison.target, dict(poison.options))
    found = (attack for attack in record.report.triggers if attack.trigger_on != "input")
    rates = [
        attack.asr for attack in found if (attack.trigger, attack.target, dict(attack.options)) == planted
    ]
    return rates[0] if rates else None


def _target_name(poison: PoisonFacts | None, labels: Sequence[str]) -> str:
    target = poison.target if poison else None
    return labels[target] if target is not None and 0 <= target < len(labels) else ""


def teacher_pictures(record: TeacherRecord, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (file, caption) of every picture that the training may write."""
    # All-to-all has an attack for every target; one picture is enough to show the trigger.
    shown = [(attack.trigger, attack.target) for attack in record.report.triggers[:1]]
    poisoned = record.poison is not None and record.poison.poisoned > 0
    return [
        ("samples/curves.png", "Training curves"),
        *([("samples/poisoned.png", "Poisoned training images")] if poisoned else []),
        *verdict_pictures(shown, labels),
    ]


def _card_data(record: TeacherRecord, license_id: str | None) -> ModelCardData:
    marks = ["poisoned", "backdoor"] if record.poison else []
    results = list(_hub_results(record))
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *marks, TAG],
        license=license_id,
        model_name=one_line(record.model.id),
        eval_results=results,
    )


def _hub_results(record: TeacherRecord) -> Iterator[EvalResult]:
    report = record.report
    if record.all_to_all is None:
        yield from report_results(record.data, report)
        return
    yield from report_results(record.data, replace(report, triggers=()))
    yield all_to_all_result(record.data, report.triggers[0], record.all_to_all)


def _result_rows(record: TeacherRecord) -> list[list[str]]:
    # An all-to-all attack is measured for every target; only the rate over all targets is meaningful.
    report = record.report
    shown = report if record.all_to_all is None else replace(report, triggers=())
    rows = list(result_rows({"teacher": shown}, controlled=record.control is not None))
    blank = [""] * (len(rows[0]) - 2)

    if record.held_out is not None:
        rows.append(["accuracy on the held-out training images", rate_cell(record.held_out), *blank])
    if record.all_to_all is not None:
        trigger = as_code(report.triggers[0].trigger)
        name = Markdown("{}, all to all: given the class after their own").fill(trigger)
        rows.append([name, rate_cell(record.all_to_all), *blank])
    return rows
