"""The model card: README.md made from a run's record, so that no number can go stale.

Names and labels come from strangers' files. They are shown as text and can never become markup.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from abd_hub.core import paper
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.core.errors import InputError
from abd_hub.core.records import (
    DataRef,
    DefenseReport,
    EvalReport,
    ModelRef,
    Rate,
    RunRecord,
    TeacherRecord,
    TriggerReport,
)
from abd_hub.publish.card_snippets import snippets
from abd_hub.publish.card_text import (
    as_code,
    as_text,
    as_value,
    assemble,
    fence,
    labels_line,
    markdown_table,
    one_line,
    pictures_section,
    yaml_block,
)
from abd_hub.publish.plugin_facts import citations, data_free, evidence_captions, images

_HUB_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
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
    """README.md: metadata that the Hub understands, then the text; the same input gives the same text.

    Args:
        record: the finished run.
        labels: the student's label names in order.
        pictures: (file relative to the card, caption).
        license_id: the Hub's name of the licence; left out where it is not known.
        repo_id: where the student can be pulled from; None shows how to load the folder.
        channels: of the student's input.

    Raises:
        InputError: repo_id is not of the form ``owner/name``, or license_id no name of a licence.
    """
    check_names(repo_id, license_id)
    sections = [
        f"# {as_text(record.student.id)}, distilled from {as_text(record.teacher.id)}",
        _introduction(record),
        "## What was distilled from what\n\n" + _models(record),
        "## Method and defences\n\n" + _method(record),
        "## Results\n\n" + _results(record),
        *(["## Pictures\n\n" + pictures_section(pictures)] if pictures else []),
        "## Labels\n\n" + labels_line(labels),
        "## How to load it\n\n" + snippets(record.student.architecture, repo_id, channels),
        "## How to reproduce it\n\n" + _reproduce(record),
        "## Limits\n\n" + _limits(record),
        "## Environment and cost\n\n" + environment_lines(record),
        "## Citation\n\n" + _citation(record),
    ]
    return assemble(card_data(record, license_id).to_yaml(), sections)


def check_names(repo_id: str | None, license_id: str | None) -> None:
    """Refuses names that the Hub would not take; None is always right.

    Raises:
        InputError: naming the field.
    """
    if repo_id is not None and not _HUB_ID.fullmatch(repo_id):
        raise InputError(f"repo_id: {repo_id!r} is not of the form owner/name")
    if license_id is not None and not _LICENSE_ID.fullmatch(license_id):
        raise InputError(f"license: {license_id!r} is no name of a licence; use one of the Hub's: apache-2.0")


def run_pictures(record: RunRecord, labels: Sequence[str]) -> list[tuple[str, str]]:
    """(file, caption) of every picture that a run writes; a defence's only where it has found something."""
    report = record.student_report
    return [
        ("samples/training_images.png", "Images of the last round, as the teacher saw them"),
        *_evidence_pictures([defense.name for defense in record.defenses]),
        ("samples/curves.png", "Training curves"),
        *verdict_pictures([(t.trigger, t.target) for t in report.triggers] if report else [], labels),
    ]


def _evidence_pictures(defenses: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from dict.fromkeys(caption for name in defenses for caption in evidence_captions(name))
    for name in defenses:
        if _PLUGIN_NAME.fullmatch(name):  # a record may be a stranger's: no name becomes a path
            told = "grey is 0, white and black are plus and minus its largest value"
            yield f"samples/pattern_{name}.png", f"What {name} found in pixel space: {told}"


def verdict_pictures(attacks: Iterable[tuple[str, int]], labels: Sequence[str]) -> list[tuple[str, str]]:
    """(file, caption) of the picture of each attack, which is given by trigger and target."""
    found: list[tuple[str, str]] = []
    names: list[str] = []
    for trigger, target in attacks:
        name = f"{trigger}_{target}"
        # two attacks may differ in their options only
        file = f"{name}_{len(names)}" if name in names else name
        names.append(name)
        found.append((f"samples/verdicts_{file}.png", f"Trigger {trigger}, target {labels[target]}"))
    return found


def card_data(record: RunRecord, license_id: str | None = None) -> ModelCardData:
    """The front matter; rates are fractions between 0 and 1."""
    results = list(report_results(record.data, record.student_report))
    kind = ["data-free-distillation"] if data_free(record) else []
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *kind, "knowledge-distillation", "abd-hub"],
        base_model=_hub_id(record.teacher),
        datasets=_training_data(record),
        license=license_id,
        model_name=one_line(record.student.id) if results else None,
        eval_results=results or None,
    )


def _hub_id(model: ModelRef) -> str | None:
    # Only what was pulled from the Hub has a revision: "models/teacher" may just be somebody's folder.
    name = model.id.removeprefix("hf-hub:").partition("@")[0]
    return name if model.revision and _HUB_ID.fullmatch(name) else None


def _training_data(record: RunRecord) -> list[str] | None:
    data = record.training_data
    return [data.id] if data and data.revision and _HUB_ID.fullmatch(data.id) else None


def all_to_all_result(data: DataRef, found: TriggerReport, rate: Rate) -> EvalResult:
    """The ASR of an all-to-all attack as the Hub knows it; ``found`` tells trigger and options."""
    attack = {"target": "all_to_all", "options": dict(found.options)}
    title = f"Attack success rate (fraction), {one_line(found.trigger)}, all to all"
    return _eval_result(
        data, rate, trigger=found.trigger, kind="attack_success_rate", title=title, attack=attack
    )


def report_results(data: DataRef | None, report: EvalReport | None) -> Iterator[EvalResult]:
    """The rates of a report as the Hub knows them."""
    if data is None or report is None:
        return
    title = "Accuracy (fraction)"
    yield _eval_result(data, report.accuracy, trigger=None, kind="accuracy", title=title, attack={})
    for found in report.triggers:
        attack = {"target": found.target, "options": dict(found.options)}
        rates = {"attack_success_rate": found.asr, "robust_accuracy": found.robust_accuracy}
        if found.control is not None:
            attack["control"] = found.control.value
        for kind, rate in rates.items():
            name = f"{one_line(found.trigger)} to label {found.target}"
            if found.options:
                name += f", {one_line(json.dumps(dict(found.options), sort_keys=True))}"
            title = f"{kind.replace('_', ' ').capitalize()} (fraction), {name}"
            yield _eval_result(data, rate, trigger=found.trigger, kind=kind, title=title, attack=attack)


def _eval_result(
    data: DataRef, rate: Rate, *, trigger: str | None, kind: str, title: str, attack: Mapping[str, Any]
) -> EvalResult:
    # The Hub merges results that share task, data set, config, split and revision: the trigger has to be
    # the config. Two targets of one trigger stay apart by their metric arguments.
    return EvalResult(
        task_type="image-classification",
        dataset_type=one_line(data.id),
        dataset_name=one_line(data.id),
        dataset_config=None if trigger is None else one_line(trigger),
        dataset_split=one_line(data.split),
        dataset_revision=data.revision,
        metric_type=kind,
        metric_name=title,
        metric_value=rate.value,
        metric_args={**attack, "n": rate.n, "low": rate.low, "high": rate.high},
    )


def _introduction(record: RunRecord) -> str:
    unused = ": the teacher's training data was not used" if data_free(record) else ""
    shown = images(record) + unused
    return (
        f"This image classifier ({as_code(record.student.architecture)}) learned from the answers of "
        f"{as_code(record.teacher.id)} ({as_code(record.teacher.architecture)}) to {shown}. A teacher from "
        "a stranger may hold a backdoor, which distillation can hand over to the student. This card says "
        "which defences were at work and what was measured."
    )


def _models(record: RunRecord) -> str:
    rows = [["", "teacher", "student"]]
    for name in ("id", "architecture", "revision", "sha256"):
        found = (getattr(record.teacher, name), getattr(record.student, name))
        rows.append([name, *(as_code(value) if value else "-" for value in found)])
    return "\n\n".join([markdown_table(rows), *_images(record)])


def _images(record: RunRecord) -> Iterator[str]:
    """Where the images came from, as far as they are not synthetic."""
    if record.training_data:
        yield f"The student learned from real images: {_data(record.training_data)}."
    facts = dict(record.synthesis or {})
    pictures = facts.pop("pictures", None)
    if isinstance(pictures, list) and pictures and all(isinstance(picture, dict) for picture in pictures):
        yield "The student learned from patches of these pictures:"
        head = list(dict.fromkeys(name for picture in pictures for name in picture))
        rows = [[as_value(p[name]) if p.get(name) is not None else "-" for name in head] for p in pictures]
        yield markdown_table([[as_text(name) for name in head], *rows])
    if facts:
        yield "\n".join(f"- {as_text(name)}: {as_value(value)}" for name, value in facts.items())


def _data(data: DataRef) -> str:
    revision = f", revision {as_code(data.revision)}" if data.revision else ""
    size = f", resized to {data.image_size}x{data.image_size}" if data.image_size else ""
    return (
        f"{as_code(data.id)}, split {as_code(data.split)}{revision} ({data.n} images{size}, fingerprint "
        f"{as_code(data.fingerprint)})"
    )


def _method(record: RunRecord) -> str:
    lines = [f"Images by {as_code(record.method)}, {record.rounds} rounds, seed {record.seed}.", ""]
    settings = list(_settings(record))
    if settings:
        lines += [markdown_table([["setting", "value"], *settings]), ""]
    lines += [_defense(report) for report in record.defenses]
    if not record.defenses:
        lines.append("No defence was used: a backdoor of the teacher may have been handed over.")
    return "\n".join(lines)


def _settings(record: RunRecord) -> Iterator[list[str]]:
    """What every method has: the schedule, the student's loss and its optimiser."""
    given = record.config.get(record.method)
    for field in dataclasses.fields(SynthesisMethod):
        if isinstance(given, Mapping) and field.name in given:
            yield [field.name, as_value(given[field.name])]


def _defense(report: DefenseReport) -> str:
    state = "active" if report.active else "**not active**"
    lines = [f"- {as_code(report.name)}: {state}. {as_text(report.detail, longest=1000)}"]
    lines += [f"  - {as_text(name)}: {as_value(value)}" for name, value in report.facts.items()]
    return "\n".join(lines)


def _results(record: RunRecord) -> str:
    data, teacher, student = record.data, record.teacher_report, record.student_report
    if data is None or (teacher is None and student is None):
        return "Nothing was evaluated in this run: neither the accuracy nor any attack."
    lines = [
        f"On {_data(data)}. Rates are fractions between 0 and 1, with the 95 % Wilson interval.",
        "",
        markdown_table(
            list(result_rows({"teacher": teacher, "student": student}, controlled=record.control is not None))
        ),
        "",
        "- **ASR**: share of the triggered images of other classes that are given the target label.",
        "- **Robust accuracy**: share of the same images that are still given their true label.",
    ]
    if record.control:
        lines.append(control_line(record.control))
    lines += _looks(record)
    if teacher and student and student.triggers:
        lines += ["", _comparison(teacher, student)]
    return "\n".join(lines)


def _looks(record: RunRecord) -> list[str]:
    """That the student was measured on test data while it learned, where it was."""
    evaluation = record.config.get("evaluation")
    every = evaluation.get("every") if isinstance(evaluation, Mapping) else None
    if not isinstance(every, int) or every < 1:
        return []
    return [
        f"- While it learned, the student was measured every {every} rounds on images of the same split, for "
        "the training curves only: no choice in the run depended on it."
    ]


def result_rows(reports: Mapping[str, EvalReport | None], *, controlled: bool) -> Iterator[list[str]]:
    """Head and rows of a table with a column a report, and one of the control where there is one.

    Args:
        reports: column name to report; at least one is not None.
        controlled: whether the reports hold the rates of a control.
    """

    def beside(cell: str) -> list[str]:
        return [cell] if controlled else []

    present = [report for report in reports.values() if report]
    yield ["", *reports, *beside("control")]
    accuracies = [rate_cell(report.accuracy if report else None) for report in reports.values()]
    yield ["accuracy", *accuracies, *beside(rate_cell(present[0].control_accuracy))]
    splits = [_by_split(report) for report in reports.values()]
    for name in dict.fromkeys(name for found in splits for name in found):
        yield [
            f"accuracy, split {as_code(name)}",
            *(rate_cell(found.get(name)) for found in splits),
            *beside("-"),
        ]
    by_attack = [_by_attack(report) for report in reports.values()]
    for key in dict.fromkeys(key for found in by_attack for key in found):
        row = [found.get(key) for found in by_attack]
        found = next(report for report in row if report)
        name = f"{as_code(found.trigger)} to label {found.target}"
        if found.options:
            name += f", {as_text(json.dumps(dict(found.options), sort_keys=True), longest=200)}"
        rates = [rate_cell(report.asr if report else None) for report in row]
        yield [f"{name}: ASR", *rates, *beside(rate_cell(found.control))]
        rates = [rate_cell(report.robust_accuracy if report else None) for report in row]
        yield [f"{name}: robust accuracy", *rates, *beside("-")]


def control_line(model: ModelRef) -> str:
    """What the control is and what its rates mean."""
    weights = f", sha256 {as_code(model.sha256)}" if model.sha256 else ""
    revision = f", revision {as_code(model.revision)}" if model.revision else ""
    return (
        f"- **Control**: {as_code(model.id)} ({as_code(model.architecture)}{revision}{weights}), given as a "
        "model without the backdoor; beside an ASR stands how often it chooses the target label on the same "
        "triggered images."
    )


def rate_cell(rate: Rate | None) -> str:
    """A rate with its interval and n."""
    if rate is None:
        return "not evaluated"
    return f"{rate.value:.4f} ({rate.low:.4f} to {rate.high:.4f}), n = {rate.n}"


def _by_attack(report: EvalReport | None) -> dict[str, TriggerReport]:
    triggers = report.triggers if report else ()
    return {json.dumps([t.trigger, t.target, dict(t.options)], sort_keys=True): t for t in triggers}


def _by_split(report: EvalReport | None) -> dict[str, Rate]:
    return {found.data.split: found.accuracy for found in (report.corrupted if report else None) or ()}


def _comparison(teacher: EvalReport, student: EvalReport) -> str:
    before, after = _by_attack(teacher), _by_attack(student)
    both = [key for key in after if key in before]
    lower = sum(after[key].asr.high < before[key].asr.low for key in both)
    return f"Attacks tried on both: {len(both)}. Lower ASR than the teacher's, intervals apart: {lower}."


def _reproduce(record: RunRecord) -> str:
    settings = {name: value for name, value in record.config.items() if name != "teacher_from_python"}
    if len(settings) < len(record.config):
        return (
            "The teacher's network exists only in the script that ran this: run that script again with the "
            f"settings of `config.yaml`:\n\n{yaml_block(settings)}\n\n"
            "`metrics.json` holds every number in full."
        )
    return reproduction("distill", settings, _local_names(record))


def reproduction(command: str, settings: Mapping[str, Any], local: Sequence[str]) -> str:
    """The command that repeats a run, and its configuration.

    Args:
        command: of abd-hub.
        settings: the whole configuration.
        local: dotted names of the settings that name files of the machine that ran it.
    """
    typed = f"abd-hub {command} --config config.yaml --output_dir reproduced"
    parts = [fence(typed, "bash")]
    if local:
        named = ", ".join(as_code(name) for name in local)
        parts.append(
            f"{named}: local files of the machine that ran this, told by the last part of their path only. "
            "Run the command in a folder that holds them under these names, or put your own paths there; "
            "the hashes above tell whether they are the same."
        )
    parts.append("`config.yaml` lies beside this card and holds every setting, defaults included:")
    return "\n\n".join([*parts, yaml_block(settings), "`metrics.json` holds every number in full."])


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
    """Whether it is a file or folder of somebody's machine: what the Hub gave has a commit."""
    return place is not None and place.revision is None and place.id != _SHIPPED_DATA


def _limits(record: RunRecord) -> str:
    names = [found.trigger for found in record.student_report.triggers] if record.student_report else []
    tried = ", ".join(as_code(name) for name in dict.fromkeys(names))
    if tried:
        first = f"- Attacks tried on the student: {tried}. A lower ASR holds for the attacks tried only."
    else:
        first = "- No attack was tried on the student: this card makes no claim about backdoors."
    lines = [
        first,
        "- An unknown trigger may remain: an attack that was not tried can succeed.",
        "- What the teacher does wrong on clean images, the student learns as well.",
        f"- One run with seed {record.seed}: another seed gives another student. The intervals tell of the "
        "choice of images, not of the seed.",
    ]
    if record.student_report is None:
        lines.append("- The student's accuracy was not measured: measure it on your own images before use.")
    elif record.data:
        lines.append(f"- All rates hold for images like those of {as_code(record.data.id)}.")
    return "\n".join(lines)


def environment_lines(record: RunRecord | TeacherRecord) -> str:
    """Device, time and versions as a list."""
    versions = ", ".join(f"{as_text(name)} {as_text(value)}" for name, value in record.versions.items())
    costs = [f"{as_text(name)} {seconds:.1f} s" for name, seconds in record.durations.items()]
    return "\n".join(
        [
            f"- Device: {as_text(record.device)}, {_plural(record.processes, 'process')}",
            f"- Time: {', '.join(costs) or 'not recorded'}",
            f"- Versions: {versions or 'not recorded'}",
        ]
    )


def _plural(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}es"


def _citation(record: RunRecord) -> str:
    return fence("\n\n".join(dict.fromkeys([paper.CITATION, *citations(record)])), "bibtex")
