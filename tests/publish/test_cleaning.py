"""Cards tell what inspections and a purification found, claim no more, and show hostile names as text."""

import dataclasses
import re

import pytest
from card_parts import fold, front_matter_end, split_fences, without_folds
from huggingface_hub import ModelCard
from purified_folder import inspection, purification, purified_record
from records import LABELS, make_record
from test_card import HOSTILE

from abd_hub.core.errors import InputError
from abd_hub.core.records import ModelRef
from abd_hub.publish.card import render_card, run_pictures
from abd_hub.publish.own_parts import free_text, is_untouched
from abd_hub.publish.purified_card import purified_pictures, render_purified_card

pytestmark = pytest.mark.hub_client


def student(**changes):
    return dataclasses.replace(make_record(), purification=purification(**changes))


def section(card):
    """The lines of its section on inspections and the purification."""
    return fold(card, "Inspection and purification")


def test_a_student_whose_teacher_was_purified():
    record = dataclasses.replace(
        student(),
        purified_report=make_record().student_report,
        student_inspection=inspection(True, "airplane again."),
    )
    card = render_card(record, labels=LABELS)
    assert section(card).splitlines() == [
        "- The inspection `trigger_inversion` of the teacher flagged class 0 (airplane): "
        "airplane stands out.",
        "- The purification `trigger_unlearning` made a changed copy of the teacher: "
        "the triggers of airplane were unlearned. These are triggers that the inspection found; the "
        "trigger of an attacker can differ.",
        "- The copy gives the teacher's class to 98.1 % of images that were held back from the unlearning.",
        "- The same inspection of the copy flagged no class: no class stands out.",
        "- The student learned from this copy.",
        "- The inspection `trigger_inversion` of the student flagged class 0 (airplane): airplane again.",
        "",
        "This does not show that the student is clean. A trigger that the inspection cannot find may remain.",
    ]
    assert "|  | teacher | purified copy | student |\n" in card
    assert "|  | teacher | purified teacher | student |\n" in card
    flags = ("flagged class 0 (airplane)", "flagged no class", "flagged class 0 (airplane)")
    assert f"| inspection | {' | '.join(flags)} |\n" in card
    assert "wang2019neuralcleanse" in dict(split_fences(front_matter_end(card))[1])["bibtex"]
    pictures = dict(run_pictures(record, LABELS))
    assert "to class 0 (airplane)" in pictures["samples/trigger_mask_0.png"]
    assert "samples/trigger_additive_2.png" in pictures


def test_a_student_whose_teacher_was_left_alone():
    record = student(name="none", changed=False, detail="Nothing was flagged.", reinspected=None, suspects=[])
    card = render_card(record, labels=LABELS)
    assert "- The teacher was left as it was: Nothing was flagged.\n" in section(card)
    assert "- The student was not inspected.\n" in card
    assert "copy" not in section(card) and "purified teacher" not in card
    record = dataclasses.replace(record, purification=record.purification | {"inspected": None})
    assert section(render_card(record, labels=LABELS)).startswith("- The teacher was not inspected.\n")
    assert not [file for file, _ in run_pictures(record, LABELS) if "trigger" in file]


def test_without_an_inspection_its_absence_is_told_and_nothing_else():
    card = render_card(make_record(), labels=LABELS)
    assert "> - Neither the teacher nor the student was inspected.\n" in card
    assert "| inspection | not inspected | not inspected |\n" in card
    assert "purif" not in card and card.count("inspect") == 4
    assert "trigger_mask" not in str(run_pictures(make_record(), LABELS))


def test_the_card_of_a_copy():
    card = render_purified_card(purified_record(forced=True), LABELS, license_id="mit", repo_id="me/copy")
    data = ModelCard(card).data
    assert (data.base_model, data.license, data.library_name) == ("org/poisoned", "mit", "timm")
    assert data.eval_results is None and data.datasets is None
    assert 'create_model("hf-hub:me/copy"' in card and is_untouched(card)
    assert "| learning\\_rate | `0.0002` |" in card and "whether or not it was flagged" in card
    assert not re.search(r"\b(safe|secure|backdoor-free)\b", card, re.I)
    assert card.count("is clean") == card.count("does not show that the copy is clean") == 2


def test_the_card_of_a_measured_copy():
    measured = make_record()
    copy = purified_record(report=measured.student_report, data=measured.data)
    card = render_purified_card(copy, LABELS)
    assert "Nothing was measured on test data" in render_purified_card(purified_record(), LABELS)
    assert "Nothing was measured on test data" not in card
    assert "on `uoft-cs/cifar10`, split `test` (10000 images, fingerprint `f00d`)" in card
    assert "0.827" in card and "0.905" in card and is_untouched(card)


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_stays_text(text):
    # A file with half a surrogate pair is refused when it is read.
    whole = text.encode("utf-8", "ignore").decode()
    found = inspection(True, whole) | {"name": whole}
    found["triggers"] = [{"label": 0, "family": whole}, {"label": 9, "family": "mask"}]
    report = purification(name=whole, detail=whole, inspected=found, reinspected=found)
    copy = purified_record(
        model=ModelRef(text, text, text, text),
        teacher=ModelRef(text, text, text, text),
        library=text,
        purification=report,
        settings={text: text, "list": [text]},
        images=text,
        device=text,
        versions={text: text},
    )
    record = dataclasses.replace(make_record(), purification=report, student_inspection=found)
    assert [file for file, _ in purified_pictures(copy, (text, "b"))] == ["samples/trigger_mask_9.png"]
    made = render_purified_card(copy, (text, "b"), [("a b).png", text)])
    for card in (made, render_card(record, labels=(text, "b"))):
        card.encode("utf-8")
        body, blocks = split_fences(front_matter_end(card))
        assert {language for language, _ in blocks} <= {"python", "bash", "yaml", "bibtex"}
        assert free_text(card) == "" and is_untouched(card)
        body = without_folds(body)
        assert len(re.findall(r"^#", body, re.M)) == 1 + len(re.findall(r"^## ", body, re.M))
        assert not re.search(r"<[a-z/!]", body, re.I)
        assert len(re.findall(r"(?<!\\)!\[", body)) == (card is made)
        assert not re.search(r"\bhttps?://|\bwww\.|[\x00-\x09\x0b-\x1f\u202e]|(?<![\w{])@some", body)
    assert ModelCard(made).data.base_model is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": 3}, "purification.name: must be a text"),
        ({"agreement": None}, "purification.agreement"),
        ({"inspected": {"name": "x"}}, "purification.inspected.flagged: is missing"),
        ({"inspected": inspection(True) | {"suspects": ["a"]}}, "purification.inspected.suspects"),
        ({"inspected": [1]}, "purification.inspected: must be an object"),
        ({"reinspected": "none"}, "purification.reinspected: must be an object"),
    ],
)
def test_a_report_of_a_wrong_form_is_refused(changes, named):
    for render in (
        lambda: render_card(student(**changes), labels=LABELS),
        lambda: render_purified_card(purified_record(purification=purification(**changes)), LABELS),
    ):
        with pytest.raises(InputError, match=re.escape(named)):
            render()


def test_triggers_of_a_wrong_form_are_refused():
    for wrong, named in ((7, r"triggers\[0\]: must be"), ({"label": "a", "family": "b"}, r"\[0\].label")):
        report = purification(inspected=inspection(True) | {"triggers": [wrong]})
        with pytest.raises(InputError, match=named):
            purified_pictures(purified_record(purification=report), LABELS)


def test_what_is_not_installed_is_named_and_not_cited():
    record = student(name="their_purification", inspected=inspection(True) | {"name": "their_inspection"})
    card = render_card(record, labels=LABELS)
    assert "The purification `their_purification` made" in card
    again = render_card(student(name="their_purification", inspected=None, reinspected=None), labels=LABELS)
    assert "wang2019" in card, "the copy was inspected by an inspection that is installed"
    assert "wang2019" not in again
