"""A tiny run with ood, and two batches of which each of several processes has its rows."""

import nets
import torch

from abd_hub import Ood, Trainer, TrainerOptions
from abd_hub.learning import distributed

TINY = {"patches": 30, "batch_size": 6, "student_steps": 2}


def trainer(seed=0, dtype=torch.float32, **settings):
    """A run with ood that is over in a moment."""
    teacher = nets.randomized(nets.wrn(base_width=4)).to(dtype).freeze()
    student = nets.wrn(seed=1, base_width=4, dtype=dtype)
    options = TrainerOptions(progress=False, checkpoint_every=0)
    return Trainer(teacher, student, Ood(**{**TINY, **settings}), [], options, seed=seed)


def two_batches(synthesizer):
    """The second batch of two rounds."""
    batches = []
    for index in range(2):
        synthesizer.begin_round(index)
        batches.append(synthesizer.sample(1))
    return batches


def main(folder):
    """Each process writes down its rows."""
    rows = two_batches(trainer().synthesizer)
    rank, _ = distributed.world()
    torch.save(rows, folder / f"ood{rank}.pt")
