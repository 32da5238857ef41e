"""The first screen of a card judges: a good, a useless, a backdoored and an unmeasured student."""

import dataclasses
import json
import re

import pytest
from huggingface_hub import ModelCard
from purified_folder import inspection, purification
from records import LABELS, make_record

from abd_hub.core.record_file import record_from_json, record_to_json
from abd_hub.core.records import EvalReport, ModelRef, TriggerReport
from abd_hub.evaluation.rates import wilson
from abd_hub.publish.card import render_card
from abd_hub.publish.card_overview import MOST_ATTACKS

pytestmark = pytest.mark.hub_client


def rate(value, n=10_000):
    return wilson(round(value * n), n)


def report(accuracy, *asrs, largest_answer=0.2):
    """Every attack has a control of 0.03."""
    attacks = (
        TriggerReport("badnet_sq", place, {}, rate(asr), rate(0.5), rate(0.03))
        for place, asr in enumerate(asrs)
    )
    shares = {"classes": 10, "largest_class": 0.1, "largest_answer": largest_answer}
    return EvalReport(rate(accuracy), tuple(attacks), rate(0.75), **shares)


def student(accuracy, *asrs, **changes):
    measured = {
        "teacher_report": report(0.777, *(0.948 for _ in asrs)),
        "student_report": report(accuracy, *asrs, largest_answer=changes.pop("largest_answer", 0.2)),
        "control": ModelRef("org/clean", "resnet18"),
    }
    return dataclasses.replace(make_record(), **measured | changes)


def first_screen(record):
    """Its lines above the first fold, with neither the own text nor the code."""
    card = render_card(record, labels=LABELS)
    return card.partition("\n# ")[2].partition("<details>")[0]


GOOD = student(
    0.75,
    0.031,
    purification=purification(),
    purified_report=report(0.77, 0.04),
    student_inspection=inspection(False, "nothing stands out."),
    teacher=ModelRef("org/big", "resnet18", "c" * 40, "a" * 64, None, 11_181_642, 44.72),
    student=ModelRef("my-run", "wrn_16_1", None, "b" * 64, None, 78_042, 0.315),
    speed={"teacher": 41.25, "student": 12_300.0},
)


def test_a_good_student():
    screen = first_screen(GOOD)
    assert screen.splitlines()[2:9] == [
        "> **Verdict: no attack that was tried works above its control; others may remain.**",
        ">",
        "> - The student keeps 97 % of the teacher's accuracy (0.750 of 0.777).",
        "> - badnet\\_sq to class 0 is not above the control: it works on 3.1 % of images (teacher 95 %, "
        "control 3.0 %).",
        "> - The inspection of the teacher flags class 0 (airplane); the student learned from a purified "
        "copy, which keeps 98 % of its answers.",
        "> - The inspection of the student flags no class, which is no proof.",
        "",
    ]
    assert re.findall(r"^\|.*", screen, re.M) == [
        "|  | teacher | purified copy | student | control |",
        "|---|---|---|---|---|",
        "| accuracy | 0.777 (0.769 to 0.785) | 0.770 (0.762 to 0.778) | 0.750 (0.741 to 0.758) "
        "| 0.750 (0.741 to 0.758) |",
        "| `badnet_sq` to label 0: ASR | 0.948 (0.943 to 0.952) | 0.040 (0.036 to 0.044) "
        "| 0.031 (0.028 to 0.035) | 0.030 (0.027 to 0.034) |",
        "| inspection | flagged class 0 (airplane) | flagged no class | flagged no class | - |",
        "| parameters | 11,181,642 | 11,181,642 | 78,042 | - |",
        "| weights | 44.7 MB | 44.7 MB | 0.315 MB | - |",
        "| images a second | 41.2 | 41.2 | 12,300 | - |",
    ]
    assert f"The speed was measured in float32 on {GOOD.device}." in screen
    written = record_to_json(GOOD.at("runs/student"))
    assert "runs/student" not in json.dumps(written) and record_from_json(written) == GOOD
    assert "Warning" not in screen


def test_the_first_screen_is_short():
    """The table, what was not tried and the loading stand before the first fold."""
    screen = first_screen(GOOD)
    assert len(screen.splitlines()) < 50
    places = [screen.index(text) for text in ("> **", "| accuracy", "## What was tried", "timm.create_model")]
    assert places == sorted(places)
    card = render_card(GOOD, labels=LABELS)
    assert card.count("<details>") == card.count("</details>") == card.count("<summary>") > 7
    for opened in re.findall(r"<details>\n(.*)\n\n", card):
        assert re.fullmatch(r"<summary>.*</summary>", opened), "Markdown needs an empty line after it"


@pytest.mark.parametrize(
    ("record", "headline", "words"),
    [
        (
            student(0.109, 0.899),
            "Warning: this model has not learned enough to be used",
            "The student has learned next to nothing: accuracy 0.109, teacher 0.777, chance 0.100.",
        ),
        (
            student(0.1, 0.0, largest_answer=1.0),
            "Warning: this model has not learned enough to be used",
            "it gives one class to all images",
        ),
        (
            student(0.338, 0.189),
            "Warning: this model has not learned enough to be used",
            "The student has learned too little: accuracy 0.338, teacher 0.777, chance 0.100.",
        ),
        (
            student(0.585, 0.873),
            "Warning: a backdoor works in this model",
            "The backdoor is present: badnet\\_sq to class 0 still works on 87 % of images (teacher 95 %, "
            "control 3.0 %).",
        ),
        (
            dataclasses.replace(make_record(), data=None, teacher_report=None, student_report=None),
            "Warning: no attack was tried on this model",
            "Nothing was measured on labeled images: neither the accuracy nor any attack.",
        ),
    ],
)
def test_no_useless_or_backdoored_student_reads_as_a_success(record, headline, words):
    screen = first_screen(record)
    assert screen.splitlines()[2].startswith(f"> **{headline}.**")
    assert words in screen
    works = "a backdoor works" in headline
    assert ("do not distill from it without a defense" in screen) is works
    assert not re.search(r"lower ASR|not above|success(?! rate)", screen, re.I)


def test_warnings_come_first():
    record = student(0.7, 0.01, student_inspection=inspection(True, "again."), purification=purification())
    box = re.findall(r"^> - (.*)", first_screen(record), re.M)
    assert box[0] == "The inspection of the student flags class 0 (airplane)."


def test_a_measured_backdoor_is_not_only_possible():
    bare = dataclasses.replace(student(0.7, 0.9), defenses=())
    assert "- No defense was used in the distillation.\n" in first_screen(bare)
    bare = dataclasses.replace(student(0.7, 0.02), defenses=())
    assert (
        "- No defense was used in the distillation, so the student may have learned a backdoor of the "
        "teacher.\n" in first_screen(bare)
    )
    bare = dataclasses.replace(student(0.7, 0.02, purification=purification()), defenses=())
    assert (
        "- No defense was used in the distillation, and the purification before it can miss a backdoor.\n"
        in (first_screen(bare))
    )


def test_many_attacks_leave_the_first_screen_short():
    record = student(0.7, *(place / 100 for place in range(40)))
    screen = first_screen(record)
    shown = re.findall(r"^\| `badnet_sq` to label (\d+)", screen, re.M)
    assert shown == [str(place) for place in range(39, 39 - MOST_ATTACKS, -1)]
    assert f"and {40 - MOST_ATTACKS} more stand under *All rates*" in screen
    assert len(screen.splitlines()) < 60
    assert render_card(record, labels=LABELS).count("to label 3: ASR |") == 1


def test_an_older_record_has_a_verdict_too():
    """It lacks chance and sizes, but the labels of the model give the number of classes."""
    old = dataclasses.replace(report(0.335, 0.9), classes=None, largest_class=None, largest_answer=None)
    card = render_card(student(0.3, 0.9, student_report=old), labels=LABELS)
    assert "accuracy at chance (0.335, chance 0.333)" in card
    assert "| parameters |" not in card and "a second" not in card.partition("<details>")[0]


def rates_of(record):
    """The attacks in the metadata of a card."""
    data = ModelCard(render_card(record, labels=LABELS)).data
    results = (one for one in data.eval_results or () if one.metric_type == "attack_success_rate")
    return {one.metric_args["target"] for one in results}


def test_a_rate_that_means_nothing_is_no_result_on_the_hub():
    """An ASR of 0 of a useless student would read as a defense that works."""
    assert rates_of(student(0.7, 0.0)) == {0}
    assert rates_of(student(0.1, 0.0, largest_answer=1.0)) == set()
    assert rates_of(student(0.338, 0.0, 0.9)) == {1}
    useless = first_screen(student(0.1, 0.0, largest_answer=1.0))
    assert "The student has learned too little for its ASR to mean anything." in useless
    assert "may have learned a backdoor" not in useless
    old = student(0.1, 0.0)
    shares = {"classes": None, "largest_class": None, "largest_answer": None}
    old = dataclasses.replace(old, student_report=dataclasses.replace(old.student_report, **shares))
    assert rates_of(old) == set(), "box and metadata count the same classes"


def test_a_teacher_at_chance_makes_no_student_useless():
    record = dataclasses.replace(student(0.8, 0.02), teacher_report=report(0.1, 0.02))
    assert rates_of(record) == {0}
    assert "too little for its ASR" not in first_screen(record)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (report(0.777, 0.948), "The teacher has a backdoor: `badnet_sq` works on 95 % of triggered images."),
        (report(0.777, 0.04), "A teacher from a stranger may hold a backdoor"),
        (report(0.1, 1.0, largest_answer=1.0), "A teacher from a stranger may hold a backdoor"),
        (None, "A teacher from a stranger may hold a backdoor"),
    ],
)
def test_the_teachers_backdoor_is_told_where_it_was_shown(teacher, words):
    assert words in first_screen(dataclasses.replace(student(0.7, 0.02), teacher_report=teacher))


def test_a_trigger_is_described_only_as_it_was_used():
    record = student(0.7, 0.02)
    assert "`badnet_sq` puts a white square near the bottom right corner" in first_screen(record)
    (attack,) = record.student_report.triggers
    moved = dataclasses.replace(attack, options={"corner": "top_left"})
    changed = dataclasses.replace(record.student_report, triggers=(moved,))
    assert "puts a white square" not in first_screen(dataclasses.replace(record, student_report=changed))
