"""The commands and their options, as a user types them."""

import accelerator_state

from abd_hub.cli import main


def answer(capsys, *typed):
    """What a command prints; it ends well."""
    capsys.readouterr()
    assert main([str(word) for word in typed]) == 0
    accelerator_state.forget()
    return capsys.readouterr().out


def arguments(teacher, output):
    """A run of six rounds with both defenses at work and one trigger measured."""
    return [
        f"--output-dir={output}",
        f"--teacher.id=local-dir:{teacher}",
        "--student.architecture=wrn_10_1",
        '--student.model_args={"base_width": 4}',
        "--zskt.rounds=6",
        "--zskt.batch-size=8",
        "--zskt.student_steps=2",
        "--defenses=[shuffling_vaccine, self_retrospection]",
        "--shuffling_vaccine.check=false",
        "--self_retrospection.last_rounds=2",
        "--self_retrospection.perturbation_steps=2",
        "--purification=none",
        "--evaluation.dataset=digits",
        '--evaluation.triggers=[{"name": "badnet_sq", "target": 0}]',
        "--trainer.checkpoint_every=4",
        "--trainer.log_every=3",
        "--trainer.progress=false",
        "--seed=5",
    ]
