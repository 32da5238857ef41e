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
    _check_maps(method, teacher, student)


def _check_maps(method: SynthesisMethod, teacher: Classifier, student: Classifier) -> None:
    """Refuses blocks that a loss of the method cannot compare."""
    if not method.attention_weight and not method.hint_weight:
        return
    own, wanted = map_shapes(student, teacher), map_shapes(teacher, teacher)
    sizes = [shape[1:] for shape in wanted], [shape[1:] for shape in own]
    maps = bool(wanted) and all(len(shape) == 3 for shape in wanted)
    if method.attention_weight:
        _check_blocks("attention_weight", *sizes, fits=maps and sizes[0] == sizes[1])
    if method.hint_weight:
        _check_blocks("hint_weight", *sizes, fits=bool(hint_pairs(own, wanted)))


def hint_pairs(
    student: Sequence[tuple[int, ...]], teacher: Sequence[tuple[int, ...]]
) -> list[tuple[int, int]]:
    """Returns the blocks of both with maps of equal height and width, the teacher's last one of each size.

    Args:
        student: channels, height and width of each block's maps.
        teacher: the same.
    """
    places: dict[tuple[int, ...], int] = {
        shape[1:]: place for place, shape in enumerate(teacher) if len(shape) == 3
    }
    return [(own, places[shape[1:]]) for own, shape in enumerate(student) if shape[1:] in places]


def _check_blocks(
    field: str, teacher_shapes: list[tuple[int, ...]], student_shapes: list[tuple[int, ...]], *, fits: bool
) -> None:
    if not fits:
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
