"""Methods and defenses in float64, on one process or on two; used by test_processes.py.

A run leaves a checkpoint half way; another goes on from the checkpoint of other processes.
"""

import dataclasses
import functools
import hashlib
import sys
from contextlib import contextmanager
from pathlib import Path

import nets
import plugin_rows
import torch
import two_processes
import two_processes_ood
import two_processes_purified
from accelerate import PartialState

from abd_hub import TeacherRecipe
from abd_hub.learning import checkpoint, distributed
from abd_hub.training.teacher_trainer import TeacherTrainer

EVERY = sorted(plugin_rows.names("defenses"))
PAPER = ("shuffling_vaccine", "self_retrospection")
ROWS = [(method, PAPER) for method in plugin_rows.names("synthesizers")]
# A generator that follows the student and real images without a defense, and a bank of images with all.
ROWS += [("zskt", ()), ("real", ()), ("fast", tuple(EVERY))]
TEACHER = "teacher"
NAMES = ["+".join([method, *defenses]) for method, defenses in ROWS]
RESIDUAL = "residual " + "+".join(["zskt", *EVERY])
"""The row whose student is a residual network, with seven BatchNorm layers in the place of two."""
NAMES += [RESIDUAL]


@contextmanager
def float64():
    """Generators and noise are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make(name):
    method, *defenses = name.removeprefix("residual ").split("+")
    student = functools.partial(nets.wrn, base_width=4) if name == RESIDUAL else nets.few_norms
    return plugin_rows.make(method, defenses, torch.float64, student)


def begun(folder, name):
    """A trainer half way, its state in a checkpoint under ``folder``."""
    trainer = make(name)
    trainer.student.train()
    for index in range(plugin_rows.STOP):
        trainer._round(index)
    if trainer.accelerator.is_main_process:
        checkpoint.save(folder / name, plugin_rows.STOP, trainer.state_dict(), 1)
    trainer.round = plugin_rows.STOP
    return trainer


def gone_on(folder, name):
    """A trainer that begins with the checkpoint under ``folder``."""
    trainer = make(name)
    (found,) = checkpoint.checkpoints(folder / name)
    trainer.round, state = checkpoint.load(found)
    trainer.load_state_dict(state)
    return trainer


def finished(trainer):
    """What must not depend on the number of processes, of a trainer at the end of its run."""
    trainer.fit()
    return {
        "student": trainer.student.state_dict(),
        "images": trainer.last_images,
        "reports": [dataclasses.asdict(defense.report()) for defense in trainer.defenses],
    }


def teacher_trainer():
    images = (nets.pixels(20) * 255).to(torch.uint8)
    network = nets.wrn(seed=1, base_width=4, drop_rate=0.1, dtype=torch.float64)
    recipe = TeacherRecipe(epochs=2, batch_size=8)
    return TeacherTrainer(network, images, torch.arange(20) % 5, recipe, plugin_rows.QUIET)


def numbers(state):
    """All tensors of a nested state, by their path."""
    if isinstance(state, torch.Tensor):
        return {"": state}
    parts = state.items() if isinstance(state, dict) else enumerate(state if isinstance(state, list) else [])
    return {f".{key}{path}": found for key, part in parts for path, found in numbers(part).items()}


def digest(state):
    found = [tensor.detach().contiguous().numpy().tobytes() for tensor in numbers(state).values()]
    return hashlib.sha256(b"".join(found)).hexdigest()


def main(folder):
    """Both processes: whole runs, and those that one process has begun."""
    PartialState(cpu=True)  # begins the exchange between the processes
    rank, world = distributed.world()
    assert world == 2
    found = {}
    for name in NAMES:
        whole = begun(folder / "two", name)
        half = digest(whole.state_dict())
        found[name] = {"whole": finished(whole), "gone on": finished(gone_on(folder / "one", name))}
        found[name]["digests"] = [half, digest(whole.state_dict())]
    found[TEACHER] = teacher_trainer().fit().state_dict()
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    # What else needs two processes is done by the same ones, because their start takes seconds.
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    with float64():
        main(place)
    two_processes.main(place / "run")
    two_processes_ood.main(place)
    two_processes_purified.main(place)
