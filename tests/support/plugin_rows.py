"""Every plug-in with settings under which it is tiny and, if it is a defense, active within four rounds."""

import dataclasses

import nets
import torch

from abd_hub import Trainer, TrainerOptions
from abd_hub.core import registry

ROUNDS, STOP = 4, 2
QUIET = TrainerOptions(progress=False, checkpoint_every=0, log_every=ROUNDS)
# A new plug-in needs a line here, with which it is tiny and, if it is a defense, active within four rounds.
SYNTHESIZERS = {
    "dafl": {"batch_size": 4, "z_dim": 4, "generator_channels": 4},
    "dfad": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
    "dfq": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
    "deepinversion": {
        "batch_size": 4,
        "student_steps": 2,
        "synthesis_batch_size": 6,
        "image_steps": 3,
        "bank_size": 15,
        "crop_padding": 1,
    },
    "fast": {
        "rounds": ROUNDS,
        "batch_size": 4,
        "student_steps": 2,
        "warmup_rounds": 1,
        "synthesis_batch_size": 6,
        "generator_steps": 2,
        "reset_first_layer_round": 3,
        "z_dim": 4,
        "generator_channels": 4,
        "bank_size": 15,
        "crop_padding": 1,
    },
    "cmi": {
        "batch_size": 4,
        "student_steps": 2,
        "generator_steps": 2,
        "synthesis_batch_size": 4,
        "z_dim": 4,
        "generator_channels": 4,
        "embedding_dim": 4,
        "negatives": 5,
        "feature_bank_size": 10,
        "bank_size": 10,
    },
    "ood": {
        "batch_size": 4,
        "student_steps": 2,
        "patches": 20,
        "crop_padding": 1,
        "hint_weight": 0.5,
        "learning_rate_warmup": 0.3,
    },
    "real": {"batch_size": 4, "student_steps": 2, "share": 0.5, "crop_padding": 1},
    "zskt": {"batch_size": 4, "student_steps": 2, "z_dim": 4, "generator_channels": 4},
}
DEFENSES = {
    "dhbe": {"generator_every": 2, "patch_size": 3, "z_dim": 4, "generator_channels": 4},
    "self_retrospection": {"last_rounds": 3, "perturbation_steps": 2, "fixed_point_steps": 2},
    "shuffling_vaccine": {"check": False, "layers": 2, "coefficient": 5.0},
    "universal_direction": {"begin": 0.75, "batches": 2, "steps": 2, "step_images": 10},
}
PAIRS = [
    [],
    ["shuffling_vaccine"],
    ["self_retrospection"],
    ["shuffling_vaccine", "self_retrospection"],
]
"""The paper's defenses, each alone and both."""


def names(kind):
    return [entry.name for entry in registry.catalog(kind)]


def settings(kind, name, table):
    """The plug-in with the settings of its line in the table."""
    assert name in table, (
        f"tests/support/plugin_rows.py has no settings for {kind} {name!r}; add a line to its table"
    )
    return registry.get(kind, name)(**table[name])


def make(synthesizer, defenses, dtype=torch.float32, student=nets.few_norms):
    """A trainer with the settings of the tables; ``student`` is a function of ``nets``."""
    method = settings("synthesizers", synthesizer, SYNTHESIZERS)
    method = dataclasses.replace(method, rounds=ROUNDS)
    teacher = nets.randomized(nets.wrn(base_width=4, dtype=dtype)).freeze()
    student = student(seed=1, drop_rate=0.1, dtype=dtype)
    at_work = [settings("defenses", name, DEFENSES).build(teacher, 0) for name in defenses]
    images = (nets.pixels(20) * 255).to(torch.uint8) if "dataset" in vars(method) else None
    return Trainer(teacher, student, method, at_work, QUIET, seed=3, images=images)
