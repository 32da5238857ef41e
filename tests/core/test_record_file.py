"""The record goes to JSON and comes back exactly; what is no record is refused."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from folders import tree

from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.record_file import read_record, record_from_json, record_to_json
from abd_hub.core.records import (
    Agreement,
    AttackedClass,
    ClassReport,
    DataRef,
    DefenseReport,
    EvalReport,
    ModelRef,
    Rate,
    RunRecord,
    SplitReport,
    TriggerReport,
)


def make_record(evaluated=True):
    attack = TriggerReport(
        "square",
        3,
        {"size": 2, "color": [1.0, 0.5]},
        Rate(0.1, 1, 10, 0.02, 0.4),
        Rate(1 / 3, 1, 3, 0.06, 0.8),
    )
    report = EvalReport(Rate(0.9, 9, 10, 0.6, 0.98), (attack, dataclasses.replace(attack, target=1)))
    return RunRecord(
        method="zskt",
        teacher=ModelRef("org/teacher", "resnet18", "c" * 40, "a" * 64),
        student=ModelRef("student", "wrn_16_1"),
        data=DataRef("org/data", "test", "f00d", None, 10) if evaluated else None,
        teacher_report=report if evaluated else None,
        student_report=dataclasses.replace(report, triggers=()) if evaluated else None,
        defenses=(
            DefenseReport("shuffling_vaccine", True, "Found.", {"tries": 2, "deep": {"x": [1, None]}}),
        ),
        seed=0,
        rounds=600,
        versions={"python": "3.12"},
        durations={"distillation": 12.0},
        device="cpu",
        processes=1,
        config={"seed": 0, "defenses": []},
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_must_be_finite(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": [value]})
    assert tree(tmp_path) == []
    with pytest.raises(ValueError, match=r"record\.durations\.distillation"):
        record_to_json(dataclasses.replace(make_record(), durations={"distillation": value}))


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_record_comes_back_exactly(tmp_path, evaluated):
    record = make_record(evaluated)
    data = record_to_json(record)
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record
    assert next(iter(data)) == "schema_version"
    assert (data["results"]["teacher"] is not None) is evaluated
    if evaluated:
        assert data["results"]["teacher"]["triggers"][0]["asr"]["n"] == 10


def test_a_record_from_before_controls_comes_back(tmp_path):
    record = make_record()
    data = record_to_json(record)
    del data["control"]
    for report in data["results"].values():
        for name in ("control_accuracy", "per_class", "corrupted"):
            del report[name]
        for found in report["triggers"]:
            del found["control"]
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record


def test_a_record_from_before_a_trigger_had_a_place_comes_back(tmp_path):
    record = make_record()
    data = record_to_json(record)
    for report in data["results"].values():
        for found in report["triggers"]:
            del found["trigger_on"]
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record
    assert read_record(tmp_path).teacher_report.triggers[0].trigger_on is None


def test_a_record_from_before_purifications_comes_back(tmp_path):
    record = make_record()
    data = record_to_json(record)
    assert list(data["results"]) == ["teacher", "student"], "without a copy there is no third report"
    for name in ("purification", "student_inspection"):
        assert data.pop(name) is None
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record


def test_a_record_from_before_agreements_comes_back(tmp_path):
    record = make_record()
    data = record_to_json(record)
    assert data.pop("agreement") is None
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record


def test_a_record_with_agreements_comes_back(tmp_path):
    found = Agreement("patches", Rate(0.31, 31, 100, 0.2, 0.4), 0.11)
    record = dataclasses.replace(make_record(), agreement=(found,))
    data = record_to_json(record)
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record
    data["agreement"][0]["images"] = "other"
    with pytest.raises(InputError, match=r"agreement\[0\]\.images"):
        record_from_json(data)


def test_a_record_of_a_purified_teacher_comes_back(tmp_path):
    record = make_record()
    record = dataclasses.replace(
        record,
        purification={"name": "trigger_unlearning", "changed": True, "inspected": {"flagged": True}},
        purified_report=record.teacher_report,
        student_inspection={"name": "trigger_inversion", "flagged": False, "scores": {"mask": 0.9}},
    )
    data = record_to_json(record)
    assert data["results"]["purified"] == data["results"]["teacher"] and "purified_report" not in data
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record


def test_a_record_with_everything_comes_back(tmp_path):
    rate = Rate(0.5, 5, 10, 0.2, 0.8)
    record = make_record()
    (first, second) = record.teacher_report.triggers
    report = EvalReport(
        rate,
        (dataclasses.replace(first, control=rate), dataclasses.replace(second, control=rate)),
        control_accuracy=rate,
        per_class=(
            ClassReport(0, "cat", 7, 4, (AttackedClass(7, 1, 3), AttackedClass(0, 0, 0))),
            ClassReport(1, "dog", 3, 1, (AttackedClass(3, 0, 0), AttackedClass(3, 3, 0))),
        ),
        corrupted=(SplitReport(DataRef("org/data", "fog", "f00d", None, 10), rate),),
    )
    record = dataclasses.replace(record, student_report=report, control=ModelRef("clean", "wrn_16_1"))
    files.write_json(tmp_path / "metrics.json", record_to_json(record))
    assert read_record(tmp_path) == record


def change(path, value):
    def apply(data):
        *parents, last = path
        for key in parents:
            data = data[key]
        data[last] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(["schema_version"], 2), "schema_version: 2"),
        (change(["schema_version"], True), "schema_version"),
        (change(["novelty"], 1), "novelty: is an unknown field"),
        (change(["teacher_report"], None), "teacher_report"),
        (change(["purified_report"], None), "purified_report: unknown field"),
        (change(["purification"], []), "purification: must be an object"),
        (change(["student_inspection"], "clean"), "student_inspection: must be an object"),
        (change(["results", "copy"], None), "results"),
        (change(["teacher", "author"], "x"), r"^teacher\.author: is an unknown field"),
        (change(["seed"], "0"), "^seed: must be a whole number, got '0'$"),
        (change(["processes"], True), "processes: must be a whole number, got True"),
        (change(["durations", "distillation"], "1"), r"durations\.distillation: must be a number"),
        (
            change(["results", "student", "accuracy", "n"], 1.5),
            r"^results\.student\.accuracy\.n: must be a whole number, got 1\.5$",
        ),
        (
            change(["results", "teacher", "triggers", 0, "asr"], None),
            r"^results\.teacher\.triggers\[0\]\.asr: must be an object",
        ),
        (change(["results"], {"teacher": None}), "results"),
        (change(["defenses"], {}), "defenses: must be a list"),
        (change(["versions"], []), "versions: must be an object"),
        (lambda data: data.pop("device"), "^device: is missing$"),
        (lambda data: data["data"].pop("n"), r"^data\.n: is missing$"),
        (
            lambda data: data["results"]["student"].pop("triggers"),
            r"^results\.student\.triggers: is missing$",
        ),
        (
            change(["durations", "distillation"], math.nan),
            r"durations\.distillation: must be a finite number",
        ),
    ],
)
def test_a_record_that_is_not_one_is_refused(spoil, message):
    data = json.loads(json.dumps(record_to_json(make_record())))
    spoil(data)
    with pytest.raises(InputError, match=message):
        record_from_json(data)


@pytest.mark.parametrize("text", ["", "[", "[]", "NaN", '{"schema_version": NaN}', "[" * 100_000, "\udc80"])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    (tmp_path / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_record(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_record(tmp_path)


def test_free_fields_hold_json_only():
    with pytest.raises(TypeError, match=r"config\.where"):
        record_to_json(dataclasses.replace(make_record(), config={"where": Path("x")}))
    with pytest.raises(TypeError, match="key 1"):
        record_to_json(dataclasses.replace(make_record(), config={1: 2}))


def test_the_environment_names_versions_without_importing():
    code = (
        "import sys, json\nfrom abd_hub.core.record_file import environment\nfound = environment()\n"
        "assert not {'torch', 'timm', 'transformers', 'gradio'} & set(sys.modules)\nprint(json.dumps(found))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    assert {"python", "platform", "torch", "timm", "huggingface-hub"} <= set(found)
