"""Two real processes on the CPU."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import forked
import nets
import pytest
import torch
import two_processes_ood
import two_processes_purified
import two_processes_table
from launcher import free_port, two_processes
from safetensors.torch import load_file
from two_processes_table import NAMES, RESIDUAL, begun, finished, gone_on, numbers

from abd_hub import Attack, build_trigger, evaluate, load_classifier, load_images, read_evidence
from abd_hub.learning import checkpoint
from abd_hub.models.saving import save_timm_folder
from abd_hub.models.weights import weights_sha256

SUPPORT = Path(__file__).parents[1] / "support"
BOUND = 1e-11
"""Of a weight in float64. Numbers are added in another order: 6e-13 in the row that is furthest."""
FLOAT32_BOUND = 1e-4
"""Of a weight or running statistic after four steps in float32, some of them of rounding: 3e-5 found."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The folder of checkpoints, the results of one process, those of each of two."""
    folder = tmp_path_factory.mktemp("table")
    with two_processes_table.float64():
        alone = {name: finished(begun(folder / "one", name)) for name in NAMES}
    (folder / "run").mkdir()
    two_processes(str(SUPPORT / "two_processes_table.py"), str(folder))
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, alone=alone, ranks=ranks)


def test_both_processes_end_with_the_same_weights_and_exact_counts(table):
    folder = table.folder / "run"
    facts = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1]
    assert facts[0]["world"] == 2
    assert facts[0]["active"] == [True, True]
    assert facts[0]["counts"][1] == 101
    assert facts[0]["answers are those of one process"] == [True, True, True]
    assert facts[0]["different answers"] > 1
    assert facts[0]["counts"][3] == 81, "20 of 101 images are of the target class"
    saved = [path.name for path in checkpoint.checkpoints(folder / "checkpoints")]
    assert saved == ["round-00000006", "round-00000008"]


def test_both_processes_have_the_purified_teacher(table):
    """One of them purifies; a second call takes the files over."""
    facts = [json.loads((table.folder / f"purified{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1]
    first, again = facts[0]
    assert first == again
    assert first[1]["changed"] and first[1] == json.loads(
        (table.folder / "purified" / "purification.json").read_text()
    )
    copied = two_processes_purified.teacher()
    assert weights_sha256(copied) != first[0]
    copied.load_state_dict(load_file(table.folder / "purified" / "teacher_purified.safetensors"))
    assert weights_sha256(copied) == first[0]


def test_the_rows_of_two_processes_are_those_of_one(table):
    parts = [torch.load(table.folder / f"ood{rank}.pt", weights_only=True) for rank in (0, 1)]
    for index, whole in enumerate(two_processes_ood.two_batches(two_processes_ood.trainer().synthesizer)):
        assert torch.equal(torch.cat([part[index] for part in parts]), whole)


def furthest(one, other):
    """The largest difference of two states."""
    one, other = numbers(one), numbers(other)
    assert one.keys() == other.keys()
    assert all(tensor.shape == other[path].shape for path, tensor in one.items())
    return max(
        float((one[path].double() - other[path].double()).abs().max()) for path in one if one[path].numel()
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_learns(table, name):
    """BatchNorm, dropout, the images' losses and every defense see the global batch."""
    alone, shared = table.alone[name], table.ranks[0][name]["whole"]
    assert furthest(alone["student"], shared["student"]) <= BOUND
    assert furthest(alone["images"], shared["images"]) <= BOUND
    assert alone["reports"] == shared["reports"]
    assert all(report["active"] for report in alone["reports"])
    assert table.ranks[0][name]["digests"] == table.ranks[1][name]["digests"], "to the bit on both"


@pytest.mark.parametrize("name", NAMES)
def test_a_run_begun_on_one_process_goes_on_with_two_and_the_reverse(table, name):
    whole = table.alone[name]["student"]
    assert furthest(whole, table.ranks[0][name]["gone on"]["student"]) <= BOUND
    with two_processes_table.float64():
        assert furthest(whole, finished(gone_on(table.folder / "two", name))["student"]) <= BOUND


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_two_processes_is_that_of_one(table, name):
    """Weights, moments, banks, collected statistics and the log's sums."""
    one, two = (
        checkpoint.load(checkpoint.checkpoints(table.folder / kind / name)[0])[1] for kind in ("one", "two")
    )
    assert furthest(one["student"], two["student"]) <= BOUND
    assert not one["sums"] or furthest(one["sums"], two["sums"]) <= BOUND
    # Adam makes steps of rounding where a generator's bias has no effect: 1e-6 after a few.
    generators = [state["synthesizer"].pop("generator", {}) for state in (one, two)]
    assert not generators[0] or furthest(*generators) <= 1e-4
    assert furthest(one, two) <= 1e-9


def test_the_rows_of_the_table_learn_different_things(table):
    """Else equal students would say nothing."""
    for one, other in itertools.combinations([name for name in NAMES if name != RESIDUAL], 2):
        methods = {one.split("+")[0], other.split("+")[0]}
        vaccinated = "shuffling_vaccine" in one, "shuffling_vaccine" in other
        if methods == {"cmi"} and len(set(vaccinated)) == 2:
            continue  # it keeps the better of two batches, here the one that no loss has shaped yet
        assert furthest(table.alone[one]["student"], table.alone[other]["student"]) > 1e-4


def test_two_processes_train_the_teacher_that_one_trains(table):
    with two_processes_table.float64():
        alone = two_processes_table.teacher_trainer().fit().state_dict()
    assert furthest(alone, table.ranks[0]["teacher"]) <= BOUND


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Folders of the same run by the launch files: one process, two, and two machines that are this one."""
    folder = tmp_path_factory.mktemp("launched")
    save_timm_folder(nets.randomized(digits_teacher()).freeze(), folder / "teacher")
    launch(folder, "one_process")
    launch(folder, "two_processes")
    port = ["--main_process_port", str(free_port())]
    launch(folder, "two_machines", ["--machine_rank", "0", *port], ["--machine_rank", "1", *port])
    return folder


def launch(folder, name, *machines):
    """accelerate with one of the files that we ship, on the CPU whatever the machine has."""
    file = SUPPORT.parents[1] / "recipes" / "launch" / f"{name}.yaml"
    command = ["-m", "accelerate.commands.launch", "--config_file", str(file)]
    run = ["-m", "abd_hub", "distill", "--output_dir", str(folder / name)]
    settings = [
        *(
            "--teacher.id",
            f"local-dir:{folder}/teacher",
            "--teacher.blocks",
            '["group1", "group2", "group3"]',
        ),
        *("--student.architecture", "wrn_10_1", "--student.model_args", '{"base_width": 4}'),
        *("--zskt.rounds", "2", "--zskt.batch_size", "8", "--zskt.student_steps", "2"),
        *("--zskt.attention_weight", "0", "--zskt.learning_rate", "1e-4"),
        *("--zskt.generator_learning_rate", "1e-5"),  # its steps of rounding are as large as any
        *("--defenses", "[shuffling_vaccine]", "--shuffling_vaccine.check", "false"),
        *("--purification", "channel_lipschitz_pruning", "--channel_lipschitz_pruning.deviations", "1"),
        *("--evaluation.dataset", "digits", "--trainer.log_every", "1"),
        *("--evaluation.triggers", '[{"name": "badnet_sq", "target": 0}]'),
        *("--evaluation.every", "2", "--evaluation.every_images", "101"),
    ]
    commands = [[*command, *options, *run, *settings] for options in machines or [[]]]
    done = forked.run_together(commands, [None] * len(commands))
    assert not any(process.returncode for process in done), [process.stderr[:6000] for process in done]


@pytest.mark.parametrize(("name", "processes"), [("two_processes", 2), ("two_machines", 2)])
def test_the_launch_files_give_the_same_student(launched, name, processes):
    runs = [launched / "one_process", launched / name]
    records = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [record["processes"] for record in records] == [1, processes]
    assert [record["purification"]["changed"] for record in records] == [True, True]
    assert records[0]["results"]["purified"] == records[1]["results"]["purified"]
    assert furthest(*[load_file(run / "model.safetensors") for run in runs]) <= FLOAT32_BOUND
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    for alone, shared in zip(*logs, strict=True):
        assert shared.keys() == alone.keys()
        for figure in alone.keys() & {"student_loss", "disagreement"}:
            assert shared[figure] == pytest.approx(alone[figure], rel=1e-4)


@pytest.mark.parametrize("name", ["one_process", "two_processes", "two_machines"])
def test_a_launched_run_measures_every_image_once(launched, name):
    record = json.loads((launched / name / "metrics.json").read_text())
    student = load_classifier(f"local-dir:{launched / name}")
    data = load_images("digits", "test")
    attack = Attack("badnet_sq", 0, build_trigger("badnet_sq"))
    alone = evaluate(student, data.images, data.labels, [attack])
    found = record["results"]["student"]
    assert found["accuracy"]["n"] == alone.accuracy.n == len(data)
    assert found["accuracy"]["count"] == alone.accuracy.count
    assert found["triggers"][0]["asr"]["count"] == alone.triggers[0].asr.count


@pytest.mark.parametrize("name", ["one_process", "two_processes", "two_machines"])
def test_a_launched_run_keeps_the_evidence_and_the_curves_of_all_images(launched, name):
    run = launched / name
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 3, "each line is written once"
    found = read_evidence(run)
    assert len(found.divergence.kl) == len(set(found.divergence.kl)) == 16, "two rounds of all processes"
    student, data = load_classifier(f"local-dir:{run}"), load_images("digits", "test")
    places = torch.arange(101) * len(data) // 101
    attack = Attack("badnet_sq", 0, build_trigger("badnet_sq"))
    watched = evaluate(student, data.images[places], data.labels[places], [attack])
    (last,) = [row for row in rows if "accuracy" in row]
    assert (last["round"], last["accuracy"], last["asr_badnet_sq_0"]) == (
        2,
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
