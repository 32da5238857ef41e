"""Several models on the same images, from Python and from the command line."""

from __future__ import annotations

import dataclasses
import json

import nets
import numpy as np
import pytest
import torch
import yaml
from commands import answer
from PIL import Image
from scipy.stats import binomtest, chi2
from tiny_teacher import save_teacher

from abd_hub import (
    Attack,
    EvaluationOptions,
    InputError,
    ModelOptions,
    TriggerOptions,
    build_trigger,
    compare,
    create_student,
    evaluate,
    load_classifier,
    load_images,
    save_timm_folder,
)
from abd_hub.core.records import DataSpec
from abd_hub.data.images import DIGITS
from abd_hub.report import grids
from abd_hub.runs.compare import format_comparison, short_names

SPEC = DataSpec(3, 8, 8, tuple("0123456789"))
ATTACK = ["--dataset", "digits", "--trigger", "badnet_sq", "--target", "1,5"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three networks that answer differently, the second so sure of class 1 that many attacks succeed."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second", "third"), start=1):
        made = create_student(
            "wrn_10_1", SPEC, (0.3,) * 3, (0.4,) * 3, seed=seed, model_args={"base_width": 4}
        )
        save_timm_folder(made.eval(), folder / name)
    return folder


def by_hand(folder, target, limit):
    """The labels that a saved model gives to clean and to triggered digits, in one plain forward pass."""
    data = load_images(DIGITS, "test", limit=limit)
    model = load_classifier(f"local-dir:{folder}")
    with torch.no_grad():
        clean = model(data.pixels()).argmax(1)
        triggered = model(build_trigger("badnet_sq")(data.pixels())).argmax(1)
    return data.labels, clean, triggered[data.labels != target]


def p_value(first, second):
    one, two = int((first & ~second).sum()), int((second & ~first).sum())
    if one + two < 25:
        return (one, two, binomtest(one, one + two, 0.5).pvalue if one + two else 1.0)
    return one, two, chi2.sf(max(abs(one - two) - 1, 0) ** 2 / (one + two), 1)


@pytest.mark.parametrize("limit", [60, 539])
def test_compare_tests_the_first_with_each_of_the_others(models, capsys, limit):
    folders = [models / name for name in ("first", "second", "third")]
    found = json.loads(answer(capsys, "compare", *folders, *ATTACK, "--limit", limit, "--json"))
    assert [row["name"] for row in found["models"]] == ["first", "second", "third"]
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("first", "second"),
        ("first", "third"),
    ]
    assert found["data"]["id"] == "digits" and found["data"]["n"] == limit and found["control"] is None
    forms = set()
    for pair in found["pairs"]:
        for place, target in enumerate((1, 5)):
            truth, clean, triggered = by_hand(models / pair["first"], target, limit)
            _, other_clean, other_triggered = by_hand(models / pair["second"], target, limit)
            tests = [(pair["clean"], clean == truth, other_clean == truth)]
            tests += [(pair["attacks"][place]["test"], triggered == target, other_triggered == target)]
            for test, first, second in tests:
                one, two, expected = p_value(first, second)
                assert (test["first_only"], test["second_only"], test["n"]) == (one, two, len(first))
                assert test["p_value"] == pytest.approx(expected, rel=1e-9)
                forms.add((one + two < 25, test["method"]))
    assert forms == {(True, "exact binomial"), (False, "chi-square with continuity correction")}


def test_each_row_is_what_evaluate_says(models, capsys):
    folders = [models / name for name in ("first", "second")]
    control = ["--control", models / "third", "--corrupted-splits", "train", "--per-class"]
    found = json.loads(answer(capsys, "compare", *folders, *ATTACK, *control, "--json"))
    assert found["control"]["model"]["id"] == "third"
    assert found["control"]["model"]["sha256"] == load_classifier(str(models / "third")).ref.sha256
    for folder, row in zip(folders, found["models"], strict=True):
        assert row["report"] == json.loads(answer(capsys, "evaluate", folder, *ATTACK, *control, "--json"))
        assert row["model"]["id"] == folder.name
    data = load_images("digits", "test")
    attacks = [Attack("badnet_sq", target, build_trigger("badnet_sq")) for target in (1, 5)]
    third = evaluate(load_classifier(str(models / "third")), data.images, data.labels, attacks)
    for row in found["models"]:
        assert row["report"]["control_accuracy"] == dataclasses.asdict(third.accuracy)
        rates = [attack["control"] for attack in row["report"]["triggers"]]
        assert rates == [dataclasses.asdict(attack.asr) for attack in third.triggers]
        train = row["report"]["corrupted"][0]
        assert (train["data"]["split"], train["accuracy"]["n"]) == ("train", 1258)
        assert [entry["name"] for entry in row["report"]["per_class"]] == list("0123456789")
        assert (
            sum(entry["correct"] for entry in row["report"]["per_class"])
            == (row["report"]["accuracy"]["count"])
        )


def test_the_tables(models, capsys):
    typed = [models / "first", models / "second", *ATTACK, "--control", models / "third"]
    text = answer(capsys, "compare", *typed, "--corrupted-splits=train", "--limit=50")
    table, splits, control, pairs = text.strip().split("\n\n")
    head = " ".join(table.splitlines()[0].split())
    assert head.startswith("model accuracy n trigger target ASR control")
    assert [line.split()[0] for line in table.splitlines()[2:]] == [
        "first",
        "badnet_sq",
        "second",
        "badnet_sq",
    ]
    assert splits.count(" train ") == 2
    assert control.startswith("control: ")
    lines = pairs.splitlines()
    forms = {line[lines[0].index("form") :] for line in lines[2:]}
    assert len(lines) == 5 and "badnet_sq to 5 succeeds" in lines[4]
    assert forms == {"exact binomial", "chi-square with continuity correction"}


def test_a_model_given_as_a_mapping(models, tmp_path, capsys):
    """A bare file of weights needs to be told what it is; the other models are not told."""
    save_timm_folder(create_student("wrn_10_1", SPEC, (0.3,) * 3, (0.4,) * 3, seed=2).eval(), tmp_path)
    options = {"id": str(tmp_path / "model.safetensors"), "architecture": "wrn_10_1", "input_size": 8}
    options |= {"mean": [0.3] * 3, "std": [0.4] * 3}
    bare = yaml.safe_dump(options, default_flow_style=True, width=1000).strip()
    found = json.loads(
        answer(capsys, "compare", models / "first", bare, "--dataset=digits", "--limit=20", "--json")
    )
    assert [row["name"] for row in found["models"]] == ["first", "model.safetensors"]
    assert found["models"][1]["model"]["architecture"] == "wrn_10_1"
    assert found["pairs"][0]["attacks"] == []


def test_the_picture_has_a_point_for_each_model_and_the_control(models, tmp_path, capsys):
    typed = [models / "first", models / "second", *ATTACK[:-1], 5, "--limit=100"]
    answer(capsys, "compare", *typed, "--control", models / "third", "--picture", tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    with Image.open(tmp_path / "x.png") as image:
        shown = np.asarray(image.convert("RGB"))
    for code in (grids.BLUE, grids.VERMILION, grids.GREEN):
        wanted = [int(code[place : place + 2], 16) for place in (1, 3, 5)]
        assert (shown == wanted).all(axis=2).sum() > 50, code


def test_all_targets(models, capsys):
    one = json.loads(answer(capsys, "evaluate", models / "second", *ATTACK[:-1], "all", "--json"))
    assert [found["target"] for found in one["triggers"]] == list(range(10))
    typed = [*ATTACK[:-1], "9", "--target=5,1", "--target", "7"]
    several = json.loads(answer(capsys, "evaluate", models / "second", *typed, "--json"))
    assert several["triggers"] == [one["triggers"][target] for target in (9, 5, 1, 7)]


def test_targets_of_the_options_share_the_trigger_and_the_data(models, monkeypatch):
    loads, calls = [], []
    from abd_hub.evaluation import measurement

    load = measurement.load_images
    monkeypatch.setattr(measurement, "load_images", lambda *a, **o: loads.append(a) or load(*a, **o))
    found = {name: load_classifier(str(models / name)) for name in ("first", "second")}
    for model in found.values():
        model.register_forward_hook(lambda *_: calls.append(1))
    triggers = [TriggerOptions(name="badnet_sq", target=target, options={"size": 2}) for target in range(10)]
    result = compare(found, EvaluationOptions(dataset="digits", triggers=triggers, batch_size=539))
    assert loads == [("digits", "test")]
    assert len(calls) == 2 * 2, "each model once clean, once triggered"
    assert len(result.pairs[0].attacks) == 10
    assert "first" in format_comparison(result)


def test_what_python_gives_wrong(models):
    first = load_classifier(str(models / "first"))
    with pytest.raises(InputError, match="dataset"):
        compare({"a": first}, EvaluationOptions())
    with pytest.raises(InputError, match="MODEL"):
        compare({}, EvaluationOptions(dataset="digits"))
    with pytest.raises(InputError, match=r"MODEL: .* has 5 classes"):
        compare({"a": first, "b": nets.wrn()}, EvaluationOptions(dataset="digits"))
    with pytest.raises(InputError, match=r"evaluation\.control"):
        compare({"a": first}, EvaluationOptions(dataset="digits", control=ModelOptions(id="x")))


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["runs/a", "local-dir:/x/runs/b/"], ["a", "b"]),
        (["runs/a/student", "runs/b/student"], ["a/student", "b/student"]),
        (["hf-hub:org/net@v1", "hf-hub:org/net@v2"], ["net@v1", "net@v2"]),
        (["org/net", "mine/org/net"], ["org/net", "mine/org/net"]),
        (["x", "local-dir:x"], ["x", "local-dir:x"]),
        ([".", "a"], [".", "a"]),
    ],
)
def test_names_are_short_and_different(ids, names):
    assert short_names(ids) == names


def test_a_run_reports_its_control(models, tmp_path, capsys, monkeypatch):
    """metrics.json, the table and the card hold the rates of a control of ``abd-hub distill``."""
    save_teacher(tmp_path / "teacher")
    output = tmp_path / "out"
    text = answer(
        capsys,
        "distill",
        *(f"--output_dir={output}", f"--teacher.id=local-dir:{tmp_path}/teacher", "--zskt.rounds=2"),
        *("--zskt.batch_size=4", "--zskt.student_steps=1", "--zskt.attention_weight=0", "--zskt.z_dim=4"),
        "--purification=none",
        *("--student.architecture=wrn_10_1", '--student.model_args={"base_width": 4}'),
        *("--evaluation.dataset=digits", f"--evaluation.control.id=local-dir:{models / 'second'}"),
        *("--evaluation.corrupted_splits=[train]", "--evaluation.per_class=true", "--evaluation.limit=90"),
        *('--evaluation.triggers=[{"name": "badnet_sq", "target": 1}]', "--trainer.progress=false"),
    )
    data = json.loads((output / "metrics.json").read_text())
    assert data["control"]["id"] == "second" and len(data["control"]["sha256"]) == 64
    assert data["config"]["evaluation"]["control"]["id"] == "local-dir:second"
    images = load_images("digits", "test", limit=90)
    attack = Attack("badnet_sq", 1, build_trigger("badnet_sq"))
    second = evaluate(load_classifier(str(models / "second")), images.images, images.labels, [attack])
    assert second.triggers[0].asr.count > 0
    for report in data["results"].values():
        assert report["triggers"][0]["control"] == dataclasses.asdict(second.triggers[0].asr)
        assert report["control_accuracy"] == dataclasses.asdict(second.accuracy)
        assert report["corrupted"][0]["data"]["split"] == "train"
        assert len(report["per_class"]) == 10
    head, _, *rows = text.splitlines()
    shown = f"{second.triggers[0].asr.value:.3f}"
    assert all(row[head.index("control") :].startswith(shown) for row in rows[:2])
    card = (output / "README.md").read_text()
    assert "| control |" in card and f"{second.triggers[0].asr.value:.3f}" in card
    # The stored configuration, control included, describes the same run where both models lie.
    again = tmp_path / "again"
    (tmp_path / "second").symlink_to(models / "second")
    monkeypatch.chdir(tmp_path)
    answer(capsys, "distill", "--config", output / "config.yaml", f"--output_dir={again}")
    assert json.loads((again / "metrics.json").read_text())["results"] == data["results"]
