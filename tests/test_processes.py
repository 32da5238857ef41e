"""Two real processes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nets
import pytest
import torch
from safetensors.torch import load_file

from abd_hub import Attack, build_trigger, checkpoint, evaluate, load_classifier, read_evidence
from abd_hub.classifier import save_timm_folder

HERE = Path(__file__).parent


def torchrun(*arguments):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_both_processes_end_with_the_same_weights_and_exact_counts(tmp_path):
    torchrun(str(HERE / "two_processes.py"), str(tmp_path))
    facts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1]
    assert facts[0]["world"] == 2
    assert facts[0]["cmi"][2] == 18, "each round adds the images of both"
    assert facts[0]["active"] == [True, True]
    assert facts[0]["counts"][1] == 101
    assert facts[0]["answers are those of one process"] == [True, True, True]
    assert facts[0]["different answers"] > 1
    assert facts[0]["counts"][3] == 81, "20 of 101 images are of the target class"
    saved = [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")]
    assert saved == ["round-00000006", "round-00000008"]


def test_every_method_with_every_defence_on_two_processes(tmp_path):
    """Both end with the same weights, and so does a run that was stopped and continued."""
    torchrun(str(HERE / "two_processes_table.py"), str(tmp_path))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len({facts["student"] for facts in first.values()}) == len(first), "each row its own student"
    for row, facts in first.items():
        assert facts["world"] == 2
        assert facts["continued"] == facts["student"], row
        assert all(facts["active"]), row


def test_both_processes_hold_the_same_bank_and_generator(tmp_path):
    torchrun(str(HERE / "two_processes_banks.py"), str(tmp_path))
    facts = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1]
    assert facts[0]["world"] == 2
    for name in ("fast", "deepinversion"):
        assert facts[0][name]["images"] == facts[0][name]["different images"] == 30


def test_the_command_on_two_processes_writes_one_folder(tmp_path):
    save_timm_folder(nets.randomised(digits_teacher()).freeze(), tmp_path / "teacher")
    run = tmp_path / "run"
    torchrun(
        *(
            "-m",
            "abd_hub",
            "distill",
            "--output_dir",
            str(run),
            "--teacher.id",
            f"local-dir:{tmp_path}/teacher",
        ),
        *("--student.architecture", "wrn_10_1", "--student.model_args", '{"base_width": 4}'),
        *("--zskt.rounds", "4", "--zskt.batch_size", "8", "--evaluation.dataset", "digits"),
        *("--evaluation.triggers", '[{"name": "badnet_sq", "target": 0}]', "--trainer.log_every", "2"),
        *("--defenses", "[shuffling_vaccine]", "--shuffling_vaccine.check", "false"),
        *("--evaluation.every", "2", "--evaluation.every_images", "101"),
    )
    record = json.loads((run / "metrics.json").read_text())
    assert record["processes"] == 2
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 4, "each line is written once"
    student = load_classifier(f"local-dir:{run}")
    from abd_hub import load_images

    data = load_images("digits", "test")
    attack = Attack("badnet_sq", 0, build_trigger("badnet_sq"))
    alone = evaluate(student, data.images, data.labels, [attack])
    found = record["results"]["student"]
    assert found["accuracy"]["n"] == alone.accuracy.n == len(data)
    assert found["accuracy"]["count"] == alone.accuracy.count
    assert found["triggers"][0]["asr"]["count"] == alone.triggers[0].asr.count
    assert all(t.isfinite().all() for t in load_file(run / "model.safetensors").values())
    found = read_evidence(run)
    assert len(found.divergence.kl) == len(set(found.divergence.kl)) == 32, "four rounds of both processes"
    places = torch.arange(101) * len(data) // 101
    watched = evaluate(student, data.images[places], data.labels[places], [attack])
    (last,) = [row for row in rows if row["round"] == 4 and "accuracy" in row]
    assert (last["accuracy"], last["asr_badnet_sq_0"]) == (
        watched.accuracy.value,
        watched.triggers[0].asr.value,
    )


def digits_teacher():
    from abd_hub import DataSpec, create_student

    spec = DataSpec(3, 8, 8, tuple("0123456789"))
    return create_student("wrn_10_1", spec, nets.MEAN, nets.STD, seed=0, model_args={"base_width": 4})


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    from abd_hub import InputError, Trainer, TrainerOptions, Zskt

    class Three:
        num_processes = 3
        device = torch.device("cpu")

    with pytest.raises(InputError, match="multiple of 3"):
        Trainer(
            nets.wrn().freeze(), nets.wrn(), Zskt(batch_size=8), [], TrainerOptions(), accelerator=Three()
        )
