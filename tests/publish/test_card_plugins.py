"""Cards cite every method and describe plug-ins of others as far as these describe themselves."""

import dataclasses
import re

import pytest
from card_parts import front_matter, front_matter_end, split_fences
from records import LABELS, make_record

from abd_hub.core import paper, registry
from abd_hub.core.records import DefenseReport, ModelRef
from abd_hub.publish.card import render_card, run_pictures

pytestmark = pytest.mark.hub_client


def test_students_of_others_are_imported_from_their_own_module(monkeypatch):
    monkeypatch.setitem(registry._registered["students"], "theirs", make_record)
    record = dataclasses.replace(make_record(), student=ModelRef("x", "theirs.tag"))
    programs = re.findall(r"```python\n(.*?)```", render_card(record, labels=LABELS), re.S)
    assert all(program.startswith(f"import {make_record.__module__}  # needed") for program in programs)


def test_every_method_is_cited():
    for entry in registry.catalog("synthesizers"):
        card = render_card(dataclasses.replace(make_record(), method=entry.name), labels=LABELS)
        cited = dict(split_fences(front_matter_end(card))[1])["bibtex"]
        assert cited == f"{paper.CITATION}\n\n{registry.get('synthesizers', entry.name).citation}"


class TheirMethod:
    """A method of somebody else's."""

    images = "pictures of clouds"
    citation = "@misc{theirs}"


class TheirDefense:
    """A defense of somebody else's."""

    citation = "@misc{defense}"
    evidence_captions = (("samples/theirs.png", "What theirs found"),)


def theirs():
    report = DefenseReport("their_defense", True, "It works.")
    return dataclasses.replace(make_record(), method="their_method", defenses=(report,))


def test_a_card_follows_plug_ins_of_others(monkeypatch):
    monkeypatch.setitem(registry._registered["synthesizers"], "their_method", TheirMethod)
    monkeypatch.setitem(registry._registered["defenses"], "their_defense", TheirDefense)
    card = render_card(theirs(), labels=LABELS)
    assert "to pictures of clouds, without the teacher's training data. The teacher has a backdoor" in card
    assert dict(split_fences(front_matter_end(card))[1])["bibtex"].endswith("@misc{theirs}\n\n@misc{defense}")
    assert ("samples/theirs.png", "What theirs found") in run_pictures(theirs(), LABELS)


def test_plug_ins_that_tell_nothing_are_shown_with_defaults(monkeypatch):
    monkeypatch.setitem(registry._registered["synthesizers"], "their_method", type("Bare", (), {}))
    monkeypatch.setitem(registry._registered["defenses"], "their_defense", lambda: None)
    card = render_card(theirs(), labels=LABELS)
    assert "to synthetic images, without the teacher's training data. The teacher has a backdoor" in card
    assert dict(split_fences(front_matter_end(card))[1])["bibtex"] == paper.CITATION
    assert "samples/pattern_their_defense.png" in dict(run_pictures(theirs(), LABELS))


def test_nothing_is_claimed_about_plug_ins_that_are_not_installed():
    card = render_card(theirs(), labels=LABELS)
    assert "to images. The teacher has a backdoor" in card and "synthetic" not in card
    assert "data-free-distillation" not in front_matter(card)[0]["tags"]
    assert "samples/pattern_their_defense.png" in dict(run_pictures(theirs(), LABELS))
