"""Run by torchrun in test_processes.py: both processes fill a bank, each writes down what it has."""

import hashlib
import json
import sys
from pathlib import Path

import nets
import torch

from abd_hub import DeepInversion, Fast, ShufflingVaccine, Trainer, TrainerOptions, distributed


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


torch.set_num_threads(1)
COMMON = {"rounds": 3, "batch_size": 8, "student_steps": 2, "synthesis_batch_size": 10, "bank_size": 100}
METHODS = {
    "fast": Fast(
        **COMMON, warmup_rounds=1, generator_steps=3, reset_first_layer_round=1, z_dim=4, generator_channels=4
    ),
    "deepinversion": DeepInversion(**COMMON, image_steps=3),
}
facts = {}
for name, method in METHODS.items():
    teacher = nets.randomised(nets.wrn(base_width=4)).freeze()
    vaccine = ShufflingVaccine(check=False, layers=2).build(teacher, 0)
    options = TrainerOptions(progress=False, checkpoint_every=0)
    trainer = Trainer(teacher, nets.wrn(seed=1, base_width=4), method, [vaccine], options)
    student = trainer.fit()
    bank = trainer.synthesizer.bank()
    facts[name] = {
        "student": digest(student.state_dict().values()),
        "bank": digest([bank.images, bank.labels]),
        "images": len(bank),
        "different images": len({image.numpy().tobytes() for image in bank.images}),
    }
    if name == "fast":
        facts[name]["generator"] = digest(trainer.synthesizer.generator.state_dict().values())
        facts[name]["averages"] = digest(trainer.synthesizer.statistics.averages)
rank, world = distributed.world()
facts["world"] = world
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(facts))
