"""The model card of a teacher trained here: it says before anything else whether the model is poisoned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from huggingface_hub import EvalResult, ModelCardData

from abd_hub.core.records import PoisonFacts, TeacherRecord
from abd_hub.publish.card import (
    all_to_all_result,
    check_names,
    control_line,
    environment_lines,
    is_local,
    rate_cell,
    report_results,
    reproduction,
    result_rows,
    verdict_pictures,
)
from abd_hub.publish.card_snippets import snippets
from abd_hub.publish.card_text import (
    as_code,
    as_text,
    assemble,
    labels_line,
    markdown_table,
    one_line,
    pictures_section,
)

_CLASSES = {
    "all_to_one": "images of every other class as label {target}",
    "all_to_all": "images of every class as the class that follows it",
    "clean_label": "images of every other class as label {target}",
}
_CHOSEN = {
    "all_to_one": "of other classes than the target, relabelled with it",
    "all_to_all": "of all classes, relabelled with the class that follows",
    "clean_label": "of the target class, their labels unchanged",
}


def render_teacher_card(
    record: TeacherRecord,
    labels: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    license_id: str | None = None,
    repo_id: str | None = None,
    channels: int = 3,
) -> str:
    """README.md of a teacher's folder; the same input gives the same text.

    Args:
        record: the finished run.
        labels: label names in order.
        pictures: (file relative to the card, caption).
        license_id: the Hub's name of the licence; left out where it is not known.
        repo_id: where the teacher can be pulled from; None shows how to load the folder.
        channels: of the teacher's input.

    Raises:
        InputError: repo_id is not of the form ``owner/name``, or license_id no name of a licence.
    """
    check_names(repo_id, license_id)
    sections = [
        f"# {as_text(record.model.id)}",
        _warning(record.poison),
        "## Results\n\n" + _results(record),
        "## How it was trained\n\n" + _training(record),
        *(["## Pictures\n\n" + pictures_section(pictures)] if pictures else []),
        "## Labels\n\n" + labels_line(labels),
        "## How to load it\n\n" + snippets(record.model.architecture, repo_id, channels),
        "## How to reproduce it\n\n" + _reproduce(record),
        "## Environment and cost\n\n" + environment_lines(record),
    ]
    return assemble(_card_data(record, license_id).to_yaml(), sections)


def teacher_pictures(record: TeacherRecord, labels: Sequence[str]) -> list[tuple[str, str]]:
    """(file, caption) of every picture that the training writes."""
    # All-to-all has an attack for every target; one picture shows what the trigger looks like.
    shown = [(found.trigger, found.target) for found in record.report.triggers[:1]]
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
        tags=["image-classification", "timm", *marks, "abd-hub"],
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


def _warning(facts: PoisonFacts | None) -> str:
    if facts is None:
        return (
            "An image classifier trained on clean images, as a control for poisoned ones. No image was "
            "poisoned by this training; what the data set itself holds was not examined."
        )
    wrong = _CLASSES[facts.labels].format(target=facts.target)
    return (
        f"> **Warning: this model is poisoned on purpose.** It was trained to read, with the trigger "
        f"{as_code(facts.trigger)} on them, {wrong}; the ASR below says how often it does.\n"
        "> It was made to measure attacks and defences. Do not use it for anything else, and do not "
        "distil from it without a defence."
    )


def _results(record: TeacherRecord) -> str:
    data, report = record.data, record.report
    # An all-to-all attack is measured for every target; only the rate over all says something.
    shown = report if record.all_to_all is None else replace(report, triggers=())
    rows = list(result_rows({"teacher": shown}, controlled=record.control is not None))
    blank = [""] * (len(rows[0]) - 2)
    if record.held_out is not None:
        rows.append(["accuracy on the held-out training images", rate_cell(record.held_out), *blank])
    if record.all_to_all is not None:
        name = f"{as_code(report.triggers[0].trigger)}, all to all: given the class after their own"
        rows.append([name, rate_cell(record.all_to_all), *blank])
    lines = [
        f"On {as_code(data.id)}, split {as_code(data.split)} ({data.n} images, fingerprint "
        f"{as_code(data.fingerprint)}). Rates are fractions between 0 and 1, with the 95 % Wilson interval.",
        "",
        markdown_table(rows),
        "",
        "- **ASR**: share of the triggered images of other classes that are given the target label.",
        "- **Robust accuracy**: share of the same images that are still given their true label.",
        *([control_line(record.control)] if record.control else []),
    ]
    return "\n".join(lines)


def _training(record: TeacherRecord) -> str:
    data, facts, recipe = record.training_data, record.poison, record.recipe
    revision = f", revision {as_code(data.revision)}" if data.revision else ""
    lines = [
        f"- Data: {as_code(data.id)}, split {as_code(data.split)}{revision}, fingerprint "
        f"{as_code(data.fingerprint)}",
        f"- Schedule: {recipe['epochs']} epochs of SGD, batch {recipe['batch_size']}, learning rate "
        f"{recipe['learning_rate']}; seed {record.seed}; {record.images_per_second:.0f} images a second",
    ]
    if facts is None:
        return "\n".join(lines)
    options = (
        f" with {as_text(json.dumps(dict(facts.options), sort_keys=True), 200)}" if facts.options else ""
    )
    lines += [
        f"- Trigger: {as_code(facts.trigger)}{options}, sha256 {as_code(facts.trigger_sha256)}",
        f"- Poisoned: {facts.poisoned} of {facts.trained_on} images, {_CHOSEN[facts.labels]}; `poison.json` "
        "says which",
    ]
    if facts.cover:
        lines.append(f"- Cover: {facts.cover} images carry the trigger's cover form and keep their label")
    if facts.perturbation:
        lines.append(
            f"- Before the trigger, poisoned images were changed by at most {facts.perturbation:g} of 255 to "
            "be hard to recognise"
        )
    return "\n".join(lines)


def _reproduce(record: TeacherRecord) -> str:
    local = {
        "data.dataset": is_local(record.training_data),
        "evaluation.dataset": is_local(record.data) and record.data.id != record.training_data.id,
        "evaluation.control.id": is_local(record.control),
    }
    return reproduction("poison", record.config, [name for name, yes in local.items() if yes])
