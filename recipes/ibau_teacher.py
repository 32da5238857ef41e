"""Distills a poisoned CIFAR-10 teacher published with I-BAU (ICLR 2022), whose network exists only here.

The checkpoint is a state dict of a small network that is neither in timm nor in transformers. The script
defines the network, as a user would, and passes it as a ``Classifier``. Its authors poisoned the teacher with
a white 4x4 square and target 8.

    python recipes/ibau_teacher.py CHECKPOINT.pth CIFAR10 --output-dir runs/plain
    python recipes/ibau_teacher.py CHECKPOINT.pth CIFAR10 --output-dir runs/abd --abd
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from abd_hub import (
    Classifier,
    DataSpec,
    DistillConfig,
    EvaluationOptions,
    ModelOptions,
    SelfRetrospection,
    ShufflingVaccine,
    StudentOptions,
    TrainerOptions,
    TriggerOptions,
    Zskt,
    distill,
    load_state_dict_into,
)

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class IbauNet(nn.Module):
    """Classifies with six convolutions with BatchNorm and ELU, three max-pools and one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, dropout in ((32, 0.3), (64, 0.4), (128, 0.4)):
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ELU()]
                channels = width
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(2048, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(pixels).flatten(1))


def load_teacher(checkpoint: str, labels: tuple[str, ...] = LABELS) -> Classifier:
    """Returns the network with the weights of a published checkpoint.

    Raises:
        InputError: the checkpoint cannot be read or belongs to another network.
    """
    net = IbauNet(len(labels))
    ref = load_state_dict_into(net, checkpoint, allow_pickle=True)
    # The network takes pixels as they are: mean 0, std 1 is its true preprocessing, not a default.
    # Attention transfer compares the maps before each pool (32x32, 16x16, 8x8) with the WRN's three groups.
    return Classifier(
        net,
        DataSpec(3, 32, 32, labels),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        blocks=("features.5", "features.13", "features.21"),
        ref=ref,
    )


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument(
        "dataset", help="Measure on CIFAR-10 from this Hub id (uoft-cs/cifar10) or folder; it never trains."
    )
    parser.add_argument("--output-dir", required=True)
    parser.add_argument(
        "--abd", action="store_true", help="Add shuffling vaccine and late self-retrospection."
    )
    parser.add_argument("--rounds", type=int, default=80_000)
    parser.add_argument("--retrospection-rounds", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--student-steps", type=int, default=10)
    parser.add_argument("--generator-channels", type=int, default=128)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=int, default=8)
    parser.add_argument("--limit", type=int, help="Measure on the first so many test images.")
    parser.add_argument("--resume", action="store_true")
    return parser


def configured(options: argparse.Namespace, teacher_id: str) -> DistillConfig:
    retrospection = SelfRetrospection(last_rounds=options.retrospection_rounds)
    return DistillConfig(
        output_dir=options.output_dir,
        teacher=ModelOptions(id=teacher_id),
        student=StudentOptions(architecture="wrn_16_1"),
        synthesizer=Zskt(
            rounds=options.rounds,
            batch_size=options.batch_size,
            student_steps=options.student_steps,
            generator_channels=options.generator_channels,
        ),
        defenses=[ShufflingVaccine(), retrospection] if options.abd else [],
        purification="none",  # the paper purifies no teacher
        evaluation=EvaluationOptions(
            dataset=options.dataset,
            limit=options.limit,
            triggers=[TriggerOptions(name="badnet_sq", target=options.target)],
        ),
        trainer=TrainerOptions(checkpoint_every=100, mixed_precision=options.mixed_precision),
        seed=options.seed,
        resume=options.resume,
    )


def main() -> None:
    options = arguments().parse_args()
    teacher = load_teacher(options.checkpoint)
    record = distill(configured(options, teacher.ref.id), teacher)
    for name, report in (("teacher", record.teacher_report), ("student", record.student_report)):
        asr = report.triggers[0].asr
        print(f"{name}: accuracy {report.accuracy.value:.3f}, ASR {asr.value:.3f}")


if __name__ == "__main__":
    main()
