"""Runs of both trainers that a test cuts off, damages and resumes, on one process or on two."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import nets
import torch

from abd_hub import InputError, TeacherRecipe, TeacherTrainerOptions, Trainer, TrainerOptions, Zskt
from abd_hub.learning import distributed
from abd_hub.models.weights import weights_sha256
from abd_hub.training.teacher_trainer import TeacherTrainer


def student(folder: Path | None) -> Trainer:
    """Six rounds, with checkpoints after the second, fourth and sixth."""
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    method = Zskt(rounds=6, batch_size=4, student_steps=1, z_dim=4, attention_weight=0)
    options = TrainerOptions(progress=False, checkpoint_every=2, checkpoint_limit=3, log_every=1)
    return Trainer(teacher, nets.wrn(seed=1, base_width=4), method, [], options, folder=folder)


def teacher(folder: Path | None) -> TeacherTrainer:
    """Six epochs of two steps, with checkpoints as above."""
    images = (nets.pixels(16, dtype=torch.float32) * 255).to(torch.uint8)
    torch.manual_seed(0)
    classifier = nets.plain(nets.PlainNet(), torch.float32)
    recipe = TeacherRecipe(epochs=6, batch_size=8, learning_rate=0.01)
    options = TeacherTrainerOptions(progress=False, checkpoint_every=2, checkpoint_limit=3)
    return TeacherTrainer(classifier, images, torch.arange(16) % 5, recipe, options, folder=folder)


MAKERS = {"student": student, "teacher": teacher}


def trained(name: str, folder: Path | None, resume: bool = False) -> str:
    """The hash of the weights at the end of a run."""
    return weights_sha256(MAKERS[name](folder).fit(resume=resume))


def main(folder: Path) -> None:
    """Resumes a run of each trainer in its folder; each process leaves what it has seen."""
    found = {}
    for name in MAKERS:
        try:
            found[name] = trained(name, folder / name, resume=True)
        except InputError as error:
            found[name] = str(error)
    rank, world = distributed.world()
    (folder / f"rank{rank}.json").write_text(json.dumps({"world": world, **found}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]))
