"""The requirements of a distillation on its parts, which are checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from abd_hub.config.options import TrainerOptions
from abd_hub.core.contracts import DefensePlugin, SynthesisMethod
from abd_hub.core.errors import InputError
from abd_hub.learning.modes import in_eval_mode
from abd_hub.models.classifier import Classifier
from abd_hub.training.running import check_processes


def check_parts(
    teacher: Classifier,
    student: Classifier,
    method: SynthesisMethod,
    defenses: Sequence[DefensePlugin],
    options: TrainerOptions,
    accelerator: Accelerator,
) -> None:
    """Refuses parts that do not fit together.

    Args:
        teacher: on the device.
        student: on the device.
        method: has batch size, rounds and the weights of attention transfer and hints.
        defenses: each may refuse the number of rounds.
        options: precision and compiler.
        accelerator: has the number and the kind of processes.

    Raises:
        InputError: batch size and processes, teacher and student, or defenses and rounds do not fit.
    """
    check_processes(accelerator, options.mixed_precision, method.batch_size)
    if options.dynamo_backend != "no" and accelerator.num_processes > 1:
        raise InputError(
            f"trainer.dynamo_backend: {options.dynamo_backend} works with one process only, but there are "
            f"{accelerator.num_processes}; use no"
        )

    for defense in defenses:
        defense.check(method.rounds)

    if teacher.spec.labels != student.spec.labels:
        raise InputError("student: has other labels than the teacher; build it with the teacher's labels")
    for field in ("attention_weight", "hint_weight"):
        if getattr(method, field):
            _check_blocks(field, teacher, student)


def _check_blocks(field: str, teacher: Classifier, student: Classifier) -> None:
    teacher_shapes, student_shapes = (
        [shape[1:] for shape in map_shapes(model, teacher)] for model in (teacher, student)
    )
    matching = teacher_shapes and teacher_shapes == student_shapes
    if not matching or not all(len(shape) == 2 for shape in teacher_shapes):
        raise InputError(
            f"{field}: needs maps of equal sizes, but the teacher's are "
            f"{teacher_shapes or 'unknown'} and the student's {student_shapes or 'unknown'}; "
            f"set {field} to 0 or name matching blocks in teacher.blocks"
        )


def map_shapes(model: Classifier, teacher: Classifier) -> list[tuple[int, ...]]:
    """Returns channels, height and width of each block's maps for images of the teacher's size."""
    spec, like = teacher.spec, teacher.mean
    pixels = torch.zeros(2, spec.channels, spec.height, spec.width, device=like.device, dtype=like.dtype)
    with in_eval_mode(model), torch.no_grad():
        features = model.forward_with_blocks(pixels)[1]
    return [tuple(feature.shape[1:]) for feature in features]
