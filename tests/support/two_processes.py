"""A run with two defenses that two processes share and measure; each writes down what it has."""

import json

import nets
import torch

from abd_hub import (
    Attack,
    SelfRetrospection,
    ShufflingVaccine,
    Trainer,
    TrainerOptions,
    Zskt,
    build_trigger,
    evaluate,
    evaluate_answers,
)
from abd_hub.learning import distributed
from abd_hub.models.weights import weights_sha256


def shared_run(folder):
    """The trainer at the end of its run, and both defenses."""
    teacher = nets.randomized(nets.wrn(base_width=4)).freeze()
    vaccine = ShufflingVaccine(check_batches=4, check_ignored=1, check_share=0.0).build(teacher, 0)
    retrospection = SelfRetrospection(last_rounds=2, perturbation_steps=2).build(teacher, 0)
    trainer = Trainer(
        teacher,
        nets.wrn(seed=1, base_width=4),
        Zskt(rounds=8, batch_size=8, student_steps=2, z_dim=8),
        [vaccine, retrospection],
        TrainerOptions(progress=False, checkpoint_every=3),
        folder=folder,
    )
    trainer.fit()
    return trainer, vaccine, retrospection


def counted(student):
    """What two processes count of 101 images, and what each counts alone."""
    images = (nets.pixels(101, dtype=torch.float32) * 255).to(torch.uint8)
    labels = torch.arange(101) % 5
    one = [Attack("badnet_sq", 1, build_trigger("badnet_sq"))]
    report = evaluate(student, images, labels, one, batch_size=16)
    attacks = [Attack("badnet_sq", target, build_trigger("badnet_sq")) for target in (1, 4)]
    _, answers = evaluate_answers(student, images, labels, attacks, batch_size=16)
    _, alone = evaluate_answers(student, images, labels, attacks, shard=(0, 1), reduce=lambda found: found)
    same = [torch.equal(one, other) for one, other in zip(answers.triggered, alone.triggered, strict=True)]
    asr = report.triggers[0].asr
    return {
        "answers are those of one process": [torch.equal(answers.clean, alone.clean), *same],
        "different answers": len(set(answers.clean.tolist())),
        "counts": [report.accuracy.count, report.accuracy.n, asr.count, asr.n],
    }


def main(folder):
    """Leaves ``rank0.json`` and ``rank1.json`` and the checkpoints in the folder."""
    trainer, vaccine, retrospection = shared_run(folder)
    rank, world = distributed.world()
    facts = {
        "world": world,
        "student": weights_sha256(trainer.student),
        "generator": [float(p.double().sum()) for p in trainer.synthesizer.generator.parameters()],
        "vaccine": [vaccine.draw, vaccine.shares],
        "active": [vaccine.active, retrospection.active],
        **counted(trainer.student),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(facts))
