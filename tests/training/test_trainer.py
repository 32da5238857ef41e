"""Checkpoints, resuming, logging and interruption of the loop."""

import json
import os
import random
import signal
import time

import forked
import nets
import pytest
import torch

from abd_hub import (
    Attack,
    EvaluationOptions,
    ImageData,
    InputError,
    SelfRetrospection,
    ShufflingVaccine,
    Trainer,
    TrainerOptions,
    Zskt,
    build_trigger,
    evaluate,
)
from abd_hub.core.errors import Interrupted
from abd_hub.core.records import DataRef
from abd_hub.evaluation.measurement import Measurement, make_watch
from abd_hub.learning import checkpoint
from abd_hub.models.saving import save_timm_folder
from abd_hub.training.running import stop_requests

METHOD = Zskt(rounds=12, batch_size=8, student_steps=2, z_dim=8)


WATCHED = EvaluationOptions(every=4, every_images=30)


def make(folder, options=None, method=METHOD, watched=False):
    """A run in which the vaccine check, the vaccine and the retrospection all take place."""
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    vaccine = ShufflingVaccine(check_batches=5, check_ignored=1, check_tries=2, check_share=0.0)
    retrospection = SelfRetrospection(last_rounds=3, perturbation_steps=2, fixed_point_steps=2)
    defenses = [vaccine.build(teacher, 0), retrospection.build(teacher, 0)]
    options = options or TrainerOptions(progress=False, checkpoint_every=0, log_every=2)
    student = nets.wrn(seed=1, base_width=4, drop_rate=0.1)
    watch = make_watch(WATCHED, measurement(), student, method.rounds) if watched else None
    return Trainer(teacher, student, method, defenses, options, folder=folder, watch=watch)


def measurement():
    """Forty noisy images, sorted by class, and two attacks of which one is tried twice."""
    images = (nets.pixels(40) * 255).to(torch.uint8)
    labels = torch.arange(40) // 8
    data = ImageData(images, labels, nets.SPEC.labels, DataRef("noise", "test", "f00d", n=40))
    attacks = [Attack("badnet_sq", 1, build_trigger("badnet_sq", {"size": size})) for size in (2, 4)]
    return Measurement(data, (*attacks, Attack("blend", 0, build_trigger("blend"))), batch_size=16)


def assert_same(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("stop", [3, 7, 10])
def test_resumed_is_bit_identical_in_every_phase(tmp_path, stop):
    """Stops while the vaccine is judged, while it is active, and during the retrospection."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = make(tmp_path / "whole")
    whole.fit()
    first = make(tmp_path / "parts")
    first.student.train()
    for index in range(stop):
        first._round(index)
        first.round += 1
        if first.round % 2 == 0:
            first.figures.take()
    first._save()
    second = make(tmp_path / "parts")
    second.fit(resume=True)
    assert_same(second.student, whole.student)
    assert_same(second.synthesizer.generator, whole.synthesizer.generator)
    assert [d.report() for d in second.defenses] == [d.report() for d in whole.defenses]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    rows = [{row["round"]: row["student_loss"] for row in map(json.loads, log)} for log in logs]
    assert rows[1] == {r: loss for r, loss in rows[0].items() if r > stop}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_watching_changes_no_bit_and_its_rows_outlive_a_stop(tmp_path):
    """Stopped with the round in which it is looked, and between two looks."""
    folders = [tmp_path / name for name in ("plain", "whole", "4", "6")]
    for folder in folders:
        folder.mkdir()
    plain, whole, *parts = folders
    unwatched = make(plain).fit()
    assert_same(make(whole, watched=True).fit(), unwatched)
    looks = [row for row in rows_of(whole) if "accuracy" in row]
    assert [row["round"] for row in looks] == [4, 8, 12]
    others = [row for row in rows_of(whole) if "accuracy" not in row]
    assert without_times(others) == without_times(rows_of(plain))
    for folder in parts:
        stopped_after(make(folder, watched=True), int(folder.name))
        assert_same(make(folder, watched=True).fit(resume=True), unwatched)
        assert [row for row in rows_of(folder) if "accuracy" in row] == looks


def stopped_after(trainer, rounds):
    original = trainer._round

    def interrupted(index):
        original(index)
        if index + 1 == rounds:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._round = interrupted
    with pytest.raises(Interrupted):
        trainer.fit()


def test_what_is_logged_is_what_evaluate_says_of_images_of_all_classes(tmp_path):
    trainer = make(tmp_path, watched=True)
    trainer.fit()
    found, data = measurement(), measurement().data
    places = torch.tensor([place * 40 // 30 for place in range(30)])
    assert data.labels[places].unique().tolist() == [0, 1, 2, 3, 4]
    report = evaluate(trainer.student, data.images[places], data.labels[places], found.attacks)
    row = rows_of(tmp_path)[-2]
    assert row == {
        "round": 12,
        "accuracy": report.accuracy.value,
        "asr_badnet_sq_1": report.triggers[0].asr.value,
        "asr_badnet_sq_1_1": report.triggers[1].asr.value,
        "asr_blend_0": report.triggers[2].asr.value,
    }
    assert len({report.accuracy.n, report.triggers[0].asr.n}) == 2


def test_the_time_of_watching_is_not_the_runs():
    began = time.monotonic()
    trainer = make(None)
    trainer.watch = lambda done, student: time.sleep(0.2) or {}
    trainer.fit()
    assert trainer.seconds < time.monotonic() - began - 0.2 * METHOD.rounds + 0.05


def test_checkpoints_are_limited_and_hold_no_pickle(tmp_path):
    make(tmp_path, TrainerOptions(progress=False, checkpoint_every=2, checkpoint_limit=2)).fit()
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert names == ["round-00000010", "round-00000012"]
    files = sorted(path.name for path in (tmp_path / "checkpoints" / names[0]).iterdir())
    assert files == ["state.json", "state.safetensors"]


def test_a_broken_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "checkpoints" / "round-00000004").mkdir(parents=True)
    with pytest.raises(InputError, match="round-00000004"):
        make(tmp_path).fit(resume=True)


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    lines = [json.dumps({"round": r}) for r in (2, 4, 6)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"rou')
    trainer = make(tmp_path)
    trainer.log.begin(4, METHOD.rounds, 0)
    assert (tmp_path / "log.jsonl").read_text().splitlines() == lines[:2]


def test_a_stop_request_ends_after_the_round_with_a_checkpoint(tmp_path):
    trainer = make(tmp_path)
    original = trainer._round

    def interrupted(index):
        original(index)
        if index == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._round = interrupted
    with pytest.raises(Interrupted, match="after round 5 of 12"):
        trainer.fit()
    resumed, whole = make(tmp_path), make(None)
    resumed.fit(resume=True)
    whole.fit()
    assert_same(resumed.student, whole.student)


def test_state_with_int_keys_tuples_and_none_survives(tmp_path):
    state = {"a": {0: torch.arange(3), 1: [None, True, 1.5, "x"]}, "b": torch.tensor(2.0).double()}
    path = checkpoint.save(tmp_path, 7, state, 1)
    index, found = checkpoint.load(path)
    assert index == 7
    assert torch.equal(found["a"][0], torch.arange(3))
    assert found["a"][1] == [None, True, 1.5, "x"]
    assert found["b"].dtype == torch.float64


def test_bf16_trains_and_keeps_float32_weights(tmp_path):
    options = TrainerOptions(progress=False, checkpoint_every=0, mixed_precision="bf16")
    trainer = make(tmp_path, options)
    student = trainer.fit()
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in student.parameters())


def run_command(folder, teacher, resume):
    return [
        *("-m", "abd_hub", "distill", "--output_dir", str(folder)),
        *("--teacher.id", f"local-dir:{teacher}", "--student.architecture", "wrn_10_1"),
        *(
            "--student.model_args",
            '{"base_width": 4}',
            "--defenses",
            "[shuffling_vaccine,self_retrospection]",
        ),
        *("--shuffling_vaccine.check_batches", "14", "--shuffling_vaccine.check_share", "0"),
        *("--self_retrospection.last_rounds", "8", "--self_retrospection.perturbation_steps", "2"),
        *("--zskt.rounds", "36", "--zskt.batch_size", "8", "--zskt.student_steps", "2"),
        *("--purification", "none"),
        *("--trainer.checkpoint_every", "3", "--trainer.log_every", "1", "--resume", str(resume).lower()),
    ]


def start(folder, teacher, resume):
    return forked.start(*run_command(folder, teacher, resume))


def wait_for_progress(process, log, lines):
    """Until the log has grown beyond ``lines``, or the run is over."""
    while process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > lines:
            return
        time.sleep(0.02)


def test_killed_three_times_and_resumed_gives_the_same_bits(tmp_path):
    teacher = tmp_path / "teacher"
    save_timm_folder(nets.randomized(nets.wrn(base_width=4)).freeze(), teacher)
    assert start(tmp_path / "whole", teacher, False).wait() == 0
    chance = random.Random(0)
    run, kills = tmp_path / "run", 0
    log = run / "log.jsonl"
    while kills < 3:
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        process = start(run, teacher, True)
        wait_for_progress(process, log, lines + chance.randrange(8))
        time.sleep(chance.random() * 0.1)
        assert process.poll() is None, "the run ended before it could be killed; make it longer"
        process.kill()
        process.wait()
        kills += 1
    assert start(run, teacher, True).wait() == 0
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (run / "model.safetensors").read_bytes() == whole
    records = [json.loads((path / "metrics.json").read_text()) for path in (run, tmp_path / "whole")]
    assert records[0]["defenses"] == records[1]["defenses"]
    assert all(defense["active"] for defense in records[0]["defenses"])
    assert not [path for path in run.rglob("*") if "tmp" in path.name]


def test_a_ctrl_c_is_answered_at_once_and_a_second_one_ends_at_once(capfd):
    with stop_requests() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        assert "stopping after this step; a second Ctrl-C ends at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
