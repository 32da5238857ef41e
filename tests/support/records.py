"""The record of a run that never ran, with several triggers and both defenses."""

import dataclasses

from abd_hub.core.records import (
    DataRef,
    DefenseReport,
    EvalReport,
    ModelRef,
    PoisonFacts,
    Rate,
    RunRecord,
    TeacherRecord,
    TriggerReport,
)

LABELS = ("airplane", "automobile", "bird")


def attack(trigger, target, asr, robust, options=None):
    return TriggerReport(
        trigger, target, options or {}, Rate(asr, round(asr * 9000), 9000, asr - 0.01, asr + 0.01),
        Rate(robust, round(robust * 9000), 9000, robust - 0.01, robust + 0.01),
    )  # fmt: skip


def make_record():
    teacher = EvalReport(
        Rate(0.9382, 9382, 10000, 0.9333, 0.9427),
        (
            attack("badnets", 0, 0.99, 0.01, {"size": 3}),
            attack("badnets", 1, 0.9, 0.09, {"size": 3}),
            attack("blend", 0, 0.95, 0.03),
        ),
    )
    student = EvalReport(
        Rate(0.8271, 8271, 10000, 0.8196, 0.8344),
        (
            attack("badnets", 0, 0.11, 0.71, {"size": 3}),
            attack("badnets", 1, 0.905, 0.05, {"size": 3}),
            attack("blend", 0, 0.23, 0.61),
        ),
    )
    return RunRecord(
        method="zskt",
        teacher=ModelRef("org/poisoned_resnet", "resnet18", "c" * 40, "a" * 64),
        student=ModelRef("my-run", "wrn_16_1", None, "b" * 64),
        data=DataRef("uoft-cs/cifar10", "test", "f00d", "d" * 40, 10000),
        teacher_report=teacher,
        student_report=student,
        defenses=(
            DefenseReport(
                "shuffling_vaccine",
                True,
                "a vaccine was found in the 2nd of 8 draws",
                {"draw": 1, "check_shares": [0.0123, 0.0456], "shuffled_layers": ["conv1", "fc"]},
            ),
            DefenseReport("self_retrospection", False, "the run ended before it was due"),
        ),
        seed=0,
        rounds=80000,
        versions={"python": "3.12.3", "torch": "2.15.0"},
        durations={"distillation": 5123.4, "evaluation": 12.0},
        device="cpu (2 threads)",
        processes=1,
        config={
            "output_dir": "my-run",
            "teacher": {"id": "org/poisoned_resnet", "revision": None},
            "synthesizer": "zskt",
            "seed": 0,
            "zskt": {
                "rounds": 80000,
                "batch_size": 128,
                "student_steps": 10,
                "learning_rate": 2e-3,
                "optimizer": "adam",
                "loss": "kl",
                "temperature": 1.0,
                "attention_weight": 250.0,
                "noise_length": 100,
            },
        },
    )


def make_teacher_record(model):
    """The record of a poisoned teacher that was never trained."""
    run = make_record()
    return TeacherRecord(
        model=model,
        training_data=dataclasses.replace(run.data, split="train"),
        data=run.data,
        report=run.teacher_report,
        held_out=Rate(0.9, 90, 100, 0.8, 0.95),
        poison=PoisonFacts("badnets", {"size": 3}, "e" * 64, 0, "all_to_one", 1000, 10, 0, 0.0),
        recipe={"epochs": 2},
        seed=0,
        images_per_second=100.0,
        versions=run.versions,
        durations={"training": 12.5},
        device=run.device,
        processes=1,
        config={"output_dir": "my-teacher", "seed": 0},
    )
