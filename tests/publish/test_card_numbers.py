"""Every number of a card, in its metadata and in its tables, is one of the record."""

import dataclasses
import json
import re

import pytest
import yaml
from card_parts import fold, front_matter
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from records import LABELS, make_record

from abd_hub.core import files
from abd_hub.core.record_file import read_record, record_to_json
from abd_hub.core.records import DataRef, ModelRef, Rate, SplitReport
from abd_hub.publish.card import render_card

pytestmark = pytest.mark.hub_client


def test_the_metadata_comes_back_without_losing_a_trigger():
    record = make_record()
    data = ModelCard(render_card(record, labels=LABELS)).data
    assert data.base_model == "org/poisoned_resnet"
    assert data.license is None
    assert "data-free-distillation" in data.tags
    again = ModelCardData(**yaml.safe_load(data.to_yaml()))
    found = {
        (r.dataset_config, r.metric_type, (r.metric_args or {}).get("target")): r.metric_value
        for r in again.eval_results
    }
    expected = {(None, "accuracy", None): record.student_report.accuracy.value}
    for report in record.student_report.triggers:
        expected[report.trigger, "attack_success_rate", report.target] = report.asr.value
        expected[report.trigger, "robust_accuracy", report.target] = report.robust_accuracy.value
    assert found == expected
    assert len(again.eval_results) == 7
    assert {
        r.metric_args["options"]["size"] for r in again.eval_results if r.dataset_config == "badnets"
    } == {3}


def test_every_number_of_the_table_is_the_records():
    record = make_record()
    rows = [line for line in render_card(record, labels=LABELS).splitlines() if ", n = " in line]
    shown = [re.findall(r"(\d\.\d{3}) \((\d\.\d{3}) to (\d\.\d{3})\), n = (\d+)", row) for row in rows]
    pairs = [(record.teacher_report.accuracy, record.student_report.accuracy)]
    for old, new in zip(record.teacher_report.triggers, record.student_report.triggers, strict=True):
        pairs += [(old.asr, new.asr), (old.robust_accuracy, new.robust_accuracy)]
    expected = [[(*(f"{v:.3f}" for v in (r.value, r.low, r.high)), str(r.n)) for r in pair] for pair in pairs]
    assert shown == expected


def controlled():
    record = make_record()
    rates = {("badnets", 0): 0.021, ("badnets", 1): 0.112, ("blend", 0): 0.033}

    def beside(report):
        found = tuple(
            dataclasses.replace(t, control=Rate(rates[t.trigger, t.target], 1, 9000, 0.0, 0.2))
            for t in report.triggers
        )
        split = SplitReport(DataRef("uoft-cs/cifar10", "fog_5", "f00d", "d" * 40, 10000), report.accuracy)
        accuracy = Rate(0.9191, 9191, 10000, 0.9136, 0.9243)
        return dataclasses.replace(report, triggers=found, control_accuracy=accuracy, corrupted=(split,))

    return dataclasses.replace(
        record,
        teacher_report=beside(record.teacher_report),
        student_report=beside(record.student_report),
        control=ModelRef("org/clean", "resnet18", "e" * 40, "9" * 64),
    )


def test_the_control_has_a_column():
    card = render_card(controlled(), labels=LABELS)
    table = fold(card, "All rates")
    rows = [
        [cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    rows = rows[next(i for i, row in enumerate(rows) if row[-2] == "control") :]
    assert {len(row) for row in rows} == {6}
    column = [row[4].partition(" ")[0] for row in rows]
    assert column == ["control", "0.919", "-", "0.021", "-", "0.112", "-", "0.033", "-"]
    assert rows[2][1:3] == ["accuracy, split `fog_5`", "0.938 (0.933 to 0.943), n = 10000"]
    assert "`org/clean`" in card and "9" * 64 in card
    first = [cell.strip() for cell in card.partition("\n| accuracy |")[2].partition("\n")[0].split("|")]
    assert [cell[:5] for cell in first] == ["0.938", "0.827", "0.919", ""]
    assert "| control |" not in render_card(make_record(), labels=LABELS)


def rich():
    """Two attacks that differ in their options only, two targets, a control, real images."""
    record = controlled()

    def twice(report, asr):
        other = dataclasses.replace(report.triggers[0], options={"size": 5}, asr=asr)
        return dataclasses.replace(report, triggers=(*report.triggers, other))

    return dataclasses.replace(
        record,
        teacher_report=twice(record.teacher_report, Rate(0.77, 6930, 9000, 0.7612, 0.7786)),
        student_report=twice(record.student_report, Rate(0.0667, 600, 9000, 0.0617, 0.072)),
    )


def shown_rates(card):
    """Row name to the rates in its cells, as they stand in the table of results."""
    section = fold(card, "All rates")
    rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    pattern = r"(\S+) \((\S+) to (\S+)\), n = (\d+)"
    return {row[0]: [re.fullmatch(pattern, cell) for cell in row[1:]] for row in rows}


def test_every_rate_of_the_card_is_in_metrics_json(tmp_path):
    files.write_json(tmp_path / "metrics.json", record_to_json(rich()))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    card = render_card(read_record(tmp_path), labels=LABELS)
    rows = shown_rates(card)
    results = [metrics["results"][who] for who in ("teacher", "student")]
    expected = {"accuracy": [*(r["accuracy"] for r in results), results[0]["control_accuracy"]]}
    expected["accuracy, split `fog_5`"] = [*(r["corrupted"][0]["accuracy"] for r in results), None]
    for pair in zip(*(r["triggers"] for r in results), strict=True):
        name = f"`{pair[0]['trigger']}` to label {pair[0]['target']}"
        name += f", {json.dumps(pair[0]['options'])}" if pair[0]["options"] else ""
        expected[f"{name}: ASR"] = [*(t["asr"] for t in pair), pair[0]["control"]]
        expected[f"{name}: robust accuracy"] = [*(t["robust_accuracy"] for t in pair), None]
    assert set(rows) == {"", *expected}
    for name, rates in expected.items():
        for found, rate in zip(rows[name], rates, strict=True):
            if rate is None:
                assert found is None
                continue
            value, low, high, n = found.groups()
            assert (value, low, high) == tuple(f"{rate[key]:.3f}" for key in ("value", "low", "high"))
            assert int(n) == rate["n"]


def test_the_metadata_holds_the_numbers_of_metrics_json_and_loses_no_trigger(tmp_path):
    metrics = json.loads(json.dumps(record_to_json(rich())))["results"]["student"]
    front, _ = front_matter(render_card(rich(), labels=LABELS))
    name, results = model_index_to_eval_results(front["model-index"])
    again = ModelCardData(**yaml.safe_load(ModelCardData(model_name=name, eval_results=results).to_yaml()))
    assert again.eval_results == results
    found = {}
    for r in again.eval_results:
        attack = json.dumps([r.metric_args.get(k) for k in ("target", "options")])
        numbers = [r.metric_args.get(k) for k in ("n", "low", "high", "control")]
        found[r.metric_type, r.dataset_config, attack] = [r.metric_value, *numbers]
    keys = ("value", "n", "low", "high")
    expected = {("accuracy", None, "[null, null]"): [*(metrics["accuracy"][k] for k in keys), None]}
    for t in metrics["triggers"]:
        attack = json.dumps([t["target"], t["options"]])
        for kind, rate in (("attack_success_rate", t["asr"]), ("robust_accuracy", t["robust_accuracy"])):
            beside = t["control"]["value"] if rate is t["asr"] else None
            expected[kind, t["trigger"], attack] = [*(rate[k] for k in keys), beside]
    assert found == expected
    assert len(expected) == len(again.eval_results) == 1 + 2 * 4
    assert len({r.metric_name for r in again.eval_results}) == len(again.eval_results)
