"""Checkpoints, resuming, logging and interruption of the loop."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import nets
import pytest
import torch

from abd_hub import InputError, SelfRetrospection, ShufflingVaccine, Trainer, TrainerOptions, Zskt, checkpoint
from abd_hub.classifier import save_timm_folder
from abd_hub.types import Interrupted

METHOD = Zskt(rounds=12, batch_size=8, student_steps=2, z_dim=8)


def make(folder, options=None, method=METHOD):
    """A run in which the vaccine check, the vaccine and the retrospection all take place."""
    teacher = nets.randomised(nets.wrn(base_width=4)).freeze()
    vaccine = ShufflingVaccine(check_batches=5, check_ignored=1, check_tries=2, check_share=0.0)
    retrospection = SelfRetrospection(last_rounds=3, perturbation_steps=2, fixed_point_steps=2)
    defenses = [vaccine.build(teacher, 0), retrospection.build(teacher, 0)]
    options = options or TrainerOptions(progress=False, checkpoint_every=0, log_every=2)
    student = nets.wrn(seed=1, base_width=4, drop_rate=0.1)
    return Trainer(teacher, student, method, defenses, options, folder=folder)


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
            first.sums, first.counts = {}, {}
    first._save()
    second = make(tmp_path / "parts")
    second.fit(resume=True)
    assert_same(second.student, whole.student)
    assert_same(second.synthesizer.generator, whole.synthesizer.generator)
    assert [d.report() for d in second.defenses] == [d.report() for d in whole.defenses]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    rows = [{row["round"]: row["student_loss"] for row in map(json.loads, log)} for log in logs]
    assert rows[1] == {r: loss for r, loss in rows[0].items() if r > stop}


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
    trainer.round = 4
    trainer._begin_log()
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
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    options = TrainerOptions(progress=False, checkpoint_every=0, mixed_precision="bf16")
    trainer = make(tmp_path, options)
    student = trainer.fit()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in student.parameters())


def run_command(folder, teacher, resume):
    return [
        *(sys.executable, "-m", "abd_hub", "distill", "--output_dir", str(folder)),
        *("--teacher.id", f"local-dir:{teacher}", "--student.architecture", "wrn_10_1"),
        *(
            "--student.model_args",
            '{"base_width": 4}',
            "--defenses",
            "[shuffling_vaccine,self_retrospection]",
        ),
        *("--shuffling_vaccine.check_batches", "40", "--shuffling_vaccine.check_share", "0"),
        *("--self_retrospection.last_rounds", "40", "--self_retrospection.perturbation_steps", "2"),
        *("--zskt.rounds", "240", "--zskt.batch_size", "8", "--zskt.student_steps", "2"),
        *("--trainer.checkpoint_every", "9", "--trainer.log_every", "3", "--resume", str(resume).lower()),
    ]


def start(folder, teacher, resume):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(run_command(folder, teacher, resume), env=environment, **quiet)


def wait_for_progress(process, log, lines):
    """Until the log has grown beyond ``lines``, or the run is over."""
    while process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > lines:
            return
        time.sleep(0.02)


def test_killed_five_times_and_resumed_gives_the_same_bits(tmp_path):
    teacher = tmp_path / "teacher"
    save_timm_folder(nets.randomised(nets.wrn(base_width=4)).freeze(), teacher)
    assert start(tmp_path / "whole", teacher, False).wait() == 0
    chance = random.Random(0)
    run, kills = tmp_path / "run", 0
    log = run / "log.jsonl"
    while kills < 5:
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        process = start(run, teacher, True)
        wait_for_progress(process, log, lines + chance.randrange(8))
        time.sleep(chance.random() * 0.2)
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
