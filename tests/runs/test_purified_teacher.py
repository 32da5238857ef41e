"""A run inspects its teacher, learns from a purified copy where a class is flagged, inspects its student."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal

import accelerator_state
import nets
import plugin_rows
import pytest
import torch
import yaml
from planted import TARGET, planted, rates
from safetensors.torch import load_file
from short_inspection import shorten
from torch import nn

from abd_hub import (
    Classifier,
    DataSpec,
    DistillConfig,
    EvaluationOptions,
    InputError,
    ModelOptions,
    StudentOptions,
    TrainerOptions,
    TriggerInversion,
    TriggerOptions,
    Zskt,
    distill,
    find_plugin,
)
from abd_hub.core.errors import Interrupted
from abd_hub.core.inspections import InspectionReport
from abd_hub.core.record_file import read_record
from abd_hub.models.weights import sized, weights_sha256
from abd_hub.runs import purified_teacher
from abd_hub.runs.raising import as_begun
from abd_hub.training.trainer import Trainer

ROUNDS = 4
REPORT, WEIGHTS = "purification.json", "teacher_purified.safetensors"
MEASURED = EvaluationOptions(
    dataset="digits",
    limit=40,
    triggers=[TriggerOptions(name="badnet_sq", target=TARGET, options={"size": 1, "margin": 0})],
)


@pytest.fixture(autouse=True)
def own_accelerator():
    yield
    accelerator_state.forget()


@pytest.fixture(scope="module", autouse=True)
def short_inspections():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr, patch.setitem)
        yield


@pytest.fixture(scope="module")
def poisoned():
    return planted(0, poisoned=True)


@pytest.fixture(scope="module")
def clean():
    return planted(0, poisoned=False)


def configured(folder, **more):
    """A run of four rounds, by default with the inspection of teacher and student."""
    given = {
        "output_dir": str(folder),
        "teacher": ModelOptions(id="planted"),
        "student": StudentOptions(architecture="wrn_10_1", model_args={"base_width": 4}),
        "synthesizer": Zskt(rounds=ROUNDS, batch_size=8, student_steps=2, attention_weight=0, z_dim=4),
        "trainer": TrainerOptions(progress=False, checkpoint_every=0),
    }
    return DistillConfig(**given | more)


def run(config, teacher):
    try:
        return distill(config, teacher)
    finally:
        accelerator_state.forget()


def interrupted(config, teacher, rounds=2):
    """Runs up to this round, where SIGTERM comes."""
    original = Trainer._round

    def stopped(trainer, index):
        original(trainer, index)
        if index + 1 == rounds:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "_round", stopped)
        run(config, teacher)


def stored(folder, name=REPORT):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def names(folder):
    return {path.name for path in folder.iterdir()}


def trigger_pictures(folder):
    return {path.name for path in (folder / "samples").glob("trigger_*.png")}


# ------------------------------------------------------------------------------------- a poisoned teacher


@pytest.fixture(scope="module")
def before(poisoned):
    """The hash of the teacher's weights."""
    return weights_sha256(poisoned)


@pytest.fixture(scope="module")
def whole(poisoned, before, tmp_path_factory):
    """The folder of a run with the default, and its record."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(configured(folder, evaluation=MEASURED), poisoned)


@pytest.fixture(scope="module")
def unpurified(poisoned, tmp_path_factory):
    """The record of the same run without a purification."""
    return run(configured(tmp_path_factory.mktemp("unpurified") / "run", purification="none"), poisoned)


def purified(teacher, folder):
    copied = copy.deepcopy(teacher)
    copied.load_state_dict(load_file(folder / WEIGHTS))
    return copied.freeze()


def test_a_planted_backdoor_is_found_and_unlearned_before_the_first_round(whole, poisoned):
    folder, record = whole
    found = record.purification
    assert found == stored(folder) and read_record(folder) == record
    assert found["name"] == "trigger_unlearning" and found["changed"] is True
    assert found["inspected"]["flagged"] and found["suspects"] == [TARGET]
    assert not found["reinspected"]["flagged"]
    assert rates(poisoned)[1] > 0.9 and rates(purified(poisoned, folder))[1] < 0.2
    assert trigger_pictures(folder) == {f"trigger_mask_{TARGET}.png", f"trigger_additive_{TARGET}.png"}


def test_the_teacher_that_was_given_stays_as_it_is(whole, poisoned, before):
    folder, record = whole
    assert record.teacher == sized(poisoned.ref, poisoned.model) and weights_sha256(poisoned) == before
    assert weights_sha256(poisoned) != weights_sha256(purified(poisoned, folder))


def test_the_purified_copy_is_measured_beside_teacher_and_student(whole):
    folder, record = whole
    results = stored(folder, "metrics.json")["results"]
    assert list(results) == ["teacher", "student", "purified"]
    assert results["purified"]["accuracy"]["n"] == 40
    assert results["purified"] != results["teacher"]
    assert record.purified_report.triggers[0].target == TARGET
    assert set(record.durations) == {
        *("distillation", "distillation_processor", "evaluation", "purification")
    }
    assert record.durations["purification"] >= record.purification["seconds"]


def test_the_student_is_inspected_as_well(whole):
    record = whole[1]
    assert record.student_inspection["name"] == "trigger_inversion"
    assert record.student_inspection["labels"] == list("0123456789")


def test_the_student_of_a_copy_is_inspected_for_the_classes_of_the_copy(whole):
    record = whole[1]
    searched = [
        [size is not None for size in inspected["statistics"]["mask"]]
        for inspected in (record.purification["reinspected"], record.student_inspection)
    ]
    first = InspectionReport.from_json(record.purification["inspected"])
    classes = set(TriggerInversion().again(first).classes)
    assert len(classes) < 10
    for shown in searched:
        assert {label for label, there in enumerate(shown) if there} <= classes


def test_the_stored_configuration_says_what_was_done(whole):
    written = yaml.safe_load((whole[0] / "config.yaml").read_text())
    assert written["purification"] == "auto" and whole[1].config["purification"] == "auto"
    assert "trigger_unlearning" not in written, "auto has no settings"


def test_the_student_learns_from_the_copy(whole, unpurified, poisoned, tmp_path):
    """As one does that gets the copy as its teacher."""
    folder, record = whole
    by_hand = run(configured(tmp_path / "run", purification="none"), purified(poisoned, folder))
    assert by_hand.student.sha256 == record.student.sha256
    assert unpurified.student.sha256 != record.student.sha256


def test_an_interrupted_run_goes_on_to_the_same_student_without_a_second_inspection(
    whole, poisoned, tmp_path, monkeypatch
):
    record = whole[1]
    config = configured(tmp_path / "run", evaluation=MEASURED)
    interrupted(config, poisoned)
    kept = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in (REPORT, WEIGHTS)}

    def never(*arguments, **named):
        raise AssertionError("the teacher was purified before")

    monkeypatch.setattr(purified_teacher, "purify_model", never)
    resumed = run(dataclasses.replace(config, resume=True), poisoned)
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in kept} == kept
    assert resumed.student.sha256 == record.student.sha256
    assert without_seconds(resumed.purification) == without_seconds(record.purification)
    assert (resumed.purified_report, resumed.student_report) == (
        record.purified_report,
        record.student_report,
    )
    assert without_seconds(resumed.student_inspection) == without_seconds(record.student_inspection)


def without_seconds(report):
    return {
        key: without_seconds(value) if isinstance(value, dict) else value
        for key, value in report.items()
        if key != "seconds"
    }


# ---------------------------------------------------------------------------------- what is left as it is


def test_a_teacher_that_is_not_flagged_is_left_alone(clean, tmp_path):
    before = weights_sha256(clean)
    record = run(configured(tmp_path / "run"), clean)
    found = stored(tmp_path / "run")
    assert record.purification == found and found["name"] == "none" and found["changed"] is False
    assert not found["inspected"]["flagged"] and found["reinspected"] is None
    assert "left as it is" in found["detail"]
    assert record.student_inspection is not None and record.purified_report is None
    assert WEIGHTS not in names(tmp_path / "run")
    assert list(stored(tmp_path / "run", "metrics.json")["results"]) == ["teacher", "student"]
    assert weights_sha256(clean) == before
    alone = run(configured(tmp_path / "none", purification="none"), clean)
    assert alone.student.sha256 == record.student.sha256
    assert alone.purification is None and alone.student_inspection is None
    assert not {REPORT, WEIGHTS} & names(tmp_path / "none")
    assert "purification" not in alone.durations


def test_a_large_teacher_is_not_inspected_by_default(poisoned, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(purified_teacher, "MOST_PIXELS", 10 * 8 * 8 - 1)
    record = run(configured(tmp_path / "run"), poisoned)
    assert record.purification["changed"] is False and record.purification["inspected"] is None
    assert "10 classes of 8x8 take hours" in record.purification["detail"]
    assert "--purification trigger_unlearning" in record.purification["detail"]
    assert record.student_inspection is None
    assert trigger_pictures(tmp_path / "run") == set()
    assert [row for row in caplog.messages if "not inspected" in row] == [
        "The teacher is not inspected: 10 classes of 8x8 take hours on a processor; "
        "--purification trigger_unlearning does it all the same"
    ]


class Constant(nn.Module):
    """Gives every image the same logits."""

    def __init__(self, classes):
        super().__init__()
        self.logits = nn.Parameter(torch.arange(classes).float())
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, pixels):
        return self.logits.expand(len(pixels), -1) + 0 * self.layer(pixels).sum((1, 2, 3))[:, None]


@pytest.mark.parametrize(("classes", "why"), [(1, "has 1 class"), (5, "the same logits to every image")])
def test_what_cannot_be_inspected_is_distilled_all_the_same(classes, why, tmp_path, caplog):
    labels = tuple("abcde"[:classes])
    teacher = Classifier(Constant(classes), DataSpec(3, 8, 8, labels), (0.3,) * 3, (0.4,) * 3)
    record = run(configured(tmp_path / "run"), teacher)
    found = record.purification
    assert found["changed"] is False and found["inspected"] is None
    assert why in found["detail"] and "\n" not in found["detail"]
    assert record.student_inspection is None
    assert sum("not inspected" in row for row in caplog.messages) == 1
    assert why in stored(tmp_path / "run")["detail"]


def test_a_purification_that_was_asked_for_refuses_what_it_cannot_do(tmp_path):
    teacher = Classifier(Constant(5), DataSpec(3, 8, 8, tuple("abcde")), (0.3,) * 3, (0.4,) * 3)
    config = configured(
        tmp_path / "run", purification=find_plugin("purifications", "trigger_unlearning")(steps=2)
    )
    with pytest.raises(InputError, match="the same logits to every image"):
        run(config, teacher)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------- a chosen purification


def test_every_part_of_a_run_sees_the_purified_weights(tmp_path):
    """Method and defenses are built before the purification, which must not leave them the old weights."""
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    chosen = plugin_rows.settings("synthesizers", "cmi", plugin_rows.SYNTHESIZERS)
    defenses = plugin_rows.names("defenses")
    settings = {
        "synthesizer": dataclasses.replace(chosen, rounds=plugin_rows.ROUNDS),
        "defenses": [plugin_rows.settings("defenses", name, plugin_rows.DEFENSES) for name in defenses],
    }
    pruning = find_plugin("purifications", "channel_lipschitz_pruning")(deviations=1.0)
    record = run(configured(tmp_path / "run", purification=pruning, **settings), teacher)
    assert record.purification["name"] == "channel_lipschitz_pruning" and record.purification["changed"]
    assert record.student_inspection is None, "the teacher was not inspected either"
    by_hand = configured(tmp_path / "hand", purification="none", **settings)
    copied = purified(teacher, tmp_path / "run")
    assert run(by_hand, copied).student.sha256 == record.student.sha256
    assert weights_sha256(copied) != weights_sha256(teacher)


def test_a_chosen_purification_stands_in_the_configuration(tmp_path):
    chosen = find_plugin("purifications", "trigger_unlearning")(steps=3)
    content = configured(tmp_path / "run", purification=chosen).to_dict()
    assert content["purification"] == "trigger_unlearning"
    assert content["trigger_unlearning"]["steps"] == 3
    with pytest.raises(InputError, match="purification: must be auto, none"):
        configured(tmp_path / "run", purification="trigger_unlearning")


# -------------------------------------------------------------------------------- runs that are older


def older(folder):
    """Makes the configuration that of a run from before there was a purification."""
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    assert text.count("\npurification: none\n") == 1
    (folder / "config.yaml").write_text(text.replace("purification: none\n", ""), encoding="utf-8")


def test_a_run_from_before_purifications_goes_on_without_one(poisoned, unpurified, tmp_path):
    config = configured(tmp_path / "old", purification="none")
    interrupted(config, poisoned)
    older(tmp_path / "old")
    chosen = find_plugin("purifications", "trigger_unlearning")()
    with pytest.raises(InputError, match="purification: is 'trigger_unlearning' now"):
        run(dataclasses.replace(config, purification=chosen, resume=True), poisoned)
    resumed = run(dataclasses.replace(config, purification="auto", resume=True), poisoned)
    assert resumed.purification is None and REPORT not in names(tmp_path / "old")
    assert resumed.student.sha256 == unpurified.student.sha256
    assert resumed.config["purification"] == "none"


def test_only_a_resumed_run_without_a_choice_is_older(tmp_path):
    config = configured(tmp_path, purification="auto")
    text = f"# abd-hub run\n{config.to_yaml()}"
    resumed = dataclasses.replace(config, resume=True)
    assert as_begun(config) is config and as_begun(resumed) is resumed, "there is no run yet"
    (tmp_path / "config.yaml").write_text(text)
    assert as_begun(resumed) is resumed
    (tmp_path / "config.yaml").write_text(text.replace("purification: auto\n", ""))
    assert as_begun(config) is config
    assert as_begun(resumed).purification == "none"


@pytest.mark.parametrize("content", [b"# abd-hub run\n{", b"# abd-hub run\n\xff", b"# abd-hub run\nx"])
def test_a_damaged_configuration_is_refused_in_one_line(poisoned, tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml|did not write"):
        run(configured(tmp_path, resume=True), poisoned)
    assert (tmp_path / "config.yaml").read_bytes() == content
