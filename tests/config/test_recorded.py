"""The attacks of a folder's record are repeated, but no file and no address that a stranger wrote is read."""

import dataclasses
import json

import pytest
from records import make_record, make_teacher_record

from abd_hub.config.measuring import parse_evaluate
from abd_hub.config.recorded import recorded_attacks
from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.record_file import record_to_json, to_json
from abd_hub.core.records import ModelRef

DATA = ("--dataset", "digits")


def folder_of(place, **options):
    """A folder whose record has three attacks; ``options`` replace those of the last one."""
    record = make_record()
    *others, last = record.student_report.triggers
    last = dataclasses.replace(last, options=options, trigger_on="image")
    report = dataclasses.replace(record.student_report, triggers=(*others, last))
    files.write_json(
        place / "metrics.json", record_to_json(dataclasses.replace(record, student_report=report))
    )
    return place


def test_without_a_trigger_the_attacks_are_the_records(tmp_path):
    folder = folder_of(tmp_path, alpha=0.2, mode="add")
    for name in (str(folder), f"local-dir:{folder}"):
        request = parse_evaluate([name, *DATA, "--control", "org/clean"])
        options = request.options(10)
        assert [(one.name, one.target, one.options) for one in options.triggers] == [
            ("badnets", 0, {"size": 3}),
            ("badnets", 1, {"size": 3}),
            ("blend", 0, {"alpha": 0.2, "mode": "add"}),
        ]
        assert options.control.id == "org/clean" and request.trigger is None
        assert request.note.startswith(f"Measures the 3 attacks of the record of {folder.name};")


def test_a_teacher_has_a_record_too(tmp_path):
    record = make_teacher_record(ModelRef("my-teacher", "resnet18"))
    files.write_json(tmp_path / "metrics.json", to_json(record, "record"))
    assert len(parse_evaluate([str(tmp_path), *DATA]).options(10).triggers) == 3


@pytest.mark.parametrize(
    "options", [{"file": "secret"}, {"mask": "../mask.npy"}, {"a": "hf://x/y/z"}, {"a": {"file": "x"}}]
)
def test_an_attack_with_a_file_is_left_out(tmp_path, options):
    found = recorded_attacks(str(folder_of(tmp_path, **options)))
    assert [one.name for one in found.triggers] == ["badnets", "badnets"]
    assert "Not repeated: blend {" in found.note()


def test_no_attack_at_all(tmp_path):
    folder = folder_of(tmp_path)
    request = parse_evaluate([str(folder), *DATA, "--trigger", "none"])
    assert request.options(10).triggers == [] and request.note == ""
    with pytest.raises(InputError, match="control"):
        parse_evaluate([str(folder), *DATA, "--trigger", "none", "--control", "x"])


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"schema_version": 7})])
def test_what_is_no_record_changes_nothing(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    request = parse_evaluate([str(tmp_path), *DATA])
    assert request.options(10).triggers == [] and request.note == ""
    assert parse_evaluate([str(tmp_path / "absent"), *DATA]).note == ""


def test_other_attacks_than_the_records_are_told(tmp_path):
    folder = folder_of(tmp_path)

    def note(*typed):
        return parse_evaluate([str(folder), *DATA, *typed]).note

    assert "names blend to class 0, which" in note(
        "--trigger", "badnets", "--target", "0,1", "--trigger-options", "size: 3"
    )
    said = note("--trigger", "badnets", "--target", "all")
    assert "badnets {size: 3} to class 0, badnets {size: 3} to class 1, blend to class 0, which" in said
    assert note("--trigger", "all", "--target", "all") == ""


def test_names_in_a_note_are_visible_and_short(tmp_path):
    record = make_record()
    bad = tuple(
        dataclasses.replace(one, trigger="\x1b[2J\n" + "x" * 5000) for one in record.student_report.triggers
    )
    report = dataclasses.replace(record.student_report, triggers=bad)
    files.write_json(
        tmp_path / "metrics.json", record_to_json(dataclasses.replace(record, student_report=report))
    )
    said = parse_evaluate([str(tmp_path), *DATA, "--trigger", "sig", "--target", "0"]).note
    assert len(said) < 500 and "\x1b" not in said and "\n" not in said
