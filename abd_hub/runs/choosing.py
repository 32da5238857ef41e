"""Chooses what a distillation leaves open, by its teacher and its device, and tells the choice."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from abd_hub.config.durations import format_duration, parse_duration
from abd_hub.config.options import (
    AUTO,
    AUTO_NAME,
    DEFAULT_BUDGETS,
    DistillConfig,
    StudentOptions,
    plugin_name,
)
from abd_hub.core import registry
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.core.records import DataSpec
from abd_hub.models.classifier import Classifier, create_student
from abd_hub.runs.purified_teacher import too_large
from abd_hub.training.requirements import hint_pairs, map_shapes
from abd_hub.training.running import device_type

SMALL_SIDE = 64
"""Largest side of the images for which the students of 32x32 are made; larger ones cost them too much."""
STUDENTS = {True: ("wrn_16_1", "wrn_10_1"), False: ("resnet10t", "mobilenetv3_small_050")}
"""Students for small images (True) and others, the usual one first; the second is for small teachers."""
HINT_WEIGHT = 3.0
"""Weight in recipes/cifar10/ood-cpu.yaml, chosen on one teacher by training images."""
MOST_PATCH_BYTES = 2**30
"""Memory for the patches of ``ood``, half of what the method itself allows."""


def with_device(config: DistillConfig) -> DistillConfig:
    """Returns the run with the precision and the time that its device suggests, where these are left open.

    The precision is bf16 on an accelerator with bf16 and on a processor with AVX512-BF16, else float32.
    """
    device = device_type()
    budget, trainer = config.budget, config.trainer
    if budget == AUTO_NAME:
        budget = DEFAULT_BUDGETS[device == "cpu"]
    if trainer.mixed_precision == AUTO_NAME:
        trainer = dataclasses.replace(trainer, mixed_precision="bf16" if _has_bf16(device) else "no")
    return dataclasses.replace(config, budget=budget, trainer=trainer)


def with_teacher(asked: DistillConfig, config: DistillConfig, teacher: Classifier) -> DistillConfig:
    """Returns the run with the method and the student that its teacher suggests, where these are left open.

    ``asked`` is the run as the user wrote it, ``config`` has what follows from the device.

    The rules are few. The method is ``ood``, which needs neither BatchNorm nor matching blocks. It learned
    most of all methods within 38 minutes of one core: 0.667 of a teacher's 0.781, and 0.717 of 0.759. Its
    settings are those of that measurement, with hints where blocks of both networks have maps of one size.
    Patches take a gibibyte at most. A teacher of neither 1 nor 3 channels gets ``zskt``, because photographs
    do not fit. Nothing has been measured on an accelerator, so the method is the same there.

    The student is ``wrn_16_1`` for images of up to 64 pixels and else ``resnet10t``. A teacher with fewer
    parameters than this student gets a smaller one.

    Where nobody states a time, inspections that need more than half of the default time are left out.
    """
    student = config.student
    if student.architecture == AUTO_NAME:
        student = dataclasses.replace(student, architecture=_student_name(student, teacher))
    config = dataclasses.replace(config, student=student)
    if config.synthesizer is AUTO:
        config = dataclasses.replace(config, synthesizer=_method(config, teacher))
    if asked.budget == AUTO_NAME and config.purification == AUTO_NAME:
        assert config.budget is not None, "the device has decided it"
        if 2 * inspection_seconds(teacher.spec) > parse_duration(config.budget, "budget"):
            config = dataclasses.replace(config, purification="none")
    return config


def inspection_seconds(spec: DataSpec) -> float:
    """Returns about how long teacher and student are inspected on a processor; 0 on an accelerator.

    Ten classes of 32x32 take three minutes of one core, for each of the two.
    """
    if device_type() != "cpu":
        return 0.0
    return 2 * 180 * spec.num_classes * spec.height * spec.width / (10 * 32 * 32) / torch.get_num_threads()


def plan_text(asked: DistillConfig, config: DistillConfig, teacher: Classifier) -> str:
    """Returns one paragraph: what a run will do, for how long, and what is not defended.

    Args:
        asked: the run as the user wrote it.
        config: the same with all choices made.
        teacher: of the run.
    """
    spec = teacher.spec
    size, student = _count(teacher), _count(make_student(config, teacher))
    shape = f"{spec.num_classes} classes, {spec.height}x{spec.width}"
    precision = {"no": "float32"}.get(config.trainer.mixed_precision, config.trainer.mixed_precision)
    parts = [
        f"{teacher.ref.id} ({size} parameters, {shape}) becomes {config.student.architecture} ({student}) "
        f"{_time(config)}, on {device_type()} in {precision}.",
        _method_text(asked, config),
        _purification_text(asked, config, spec),
        _defense_text(config),
        _evaluation_text(config),
    ]
    return "plan: " + " ".join(parts)


def make_student(config: DistillConfig, teacher: Classifier) -> Classifier:
    """Returns the student of a run with fresh weights, on the processor."""
    return create_student(
        config.student.architecture,
        teacher.spec,
        teacher.image_mean.flatten().tolist(),
        teacher.image_std.flatten().tolist(),
        seed=config.seed,
        model_args=dict(config.student.model_args),
        pretrained=config.student.pretrained,
        view=teacher.view,
    )


def _student_name(student: StudentOptions, teacher: Classifier) -> str:
    spec = teacher.spec
    usual, smaller = STUDENTS[max(spec.height, spec.width) <= SMALL_SIDE]
    fresh = create_student(usual, spec, [0.5] * spec.channels, [0.5] * spec.channels, seed=0)
    return usual if _parameters(fresh) < _parameters(teacher) else smaller


def _method(config: DistillConfig, teacher: Classifier) -> SynthesisMethod:
    spec = teacher.spec
    if spec.channels not in (1, 3):
        zskt: SynthesisMethod = registry.get("synthesizers", "zskt")(attention_weight=0.0)
        return zskt
    kind: Any = registry.get("synthesizers", "ood")
    patches = min(kind.patches, _patches_that_fit(spec))
    hints = HINT_WEIGHT if _hints_fit(config, teacher) else 0.0
    padding = min(kind.crop_padding, min(spec.height, spec.width) - 1)
    method: SynthesisMethod = kind(**kind.frugal(), hint_weight=hints, patches=patches, crop_padding=padding)
    return method


def _patches_that_fit(spec: DataSpec) -> int:
    return max(1, math.floor(MOST_PATCH_BYTES / (spec.channels * spec.height * spec.width)))


def _hints_fit(config: DistillConfig, teacher: Classifier) -> bool:
    student = make_student(config, teacher).to(teacher.mean.device)
    return bool(hint_pairs(map_shapes(student, teacher), map_shapes(teacher, teacher)))


def _has_bf16(device: str) -> bool:
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    module = torch.get_device_module(device)
    return bool(getattr(module, "is_bf16_supported", lambda: False)())


def _parameters(model: Classifier) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count(model: Classifier) -> str:
    number = _parameters(model)
    return f"{number / 1e6:.3g} M" if number >= 1e5 else f"{number:,}"


def _time(config: DistillConfig) -> str:
    if config.budget is None:
        return f"in {config.synthesizer.rounds:,} rounds; the bar will show for how long"
    time = format_duration(parse_duration(config.budget, "budget"))
    return f"within about {time.removesuffix(' 0 s')}"


def _method_text(asked: DistillConfig, config: DistillConfig) -> str:
    name = plugin_name("synthesizers", config.synthesizer)
    text = f"Method {name}: {config.synthesizer.images}"
    if asked.synthesizer is not AUTO:
        return f"{text}."
    if name == "ood":
        return f"{text}, chosen because it needs no BatchNorm and learned most within 38 minutes of a core."
    return f"{text}, chosen because photographs do not have the teacher's channels."


def _purification_text(asked: DistillConfig, config: DistillConfig, spec: DataSpec) -> str:
    if config.purification == "none" and asked.purification != "none":
        needed = inspection_seconds(spec)
        return (
            f"Purification: none, because inspecting {spec.num_classes} classes of this size takes about "
            f"{format_duration(needed)}; --budget {math.ceil(2 * needed / 60)}m includes it."
        )
    if config.purification == AUTO_NAME and too_large(spec):
        return f"Purification: none, because {too_large(spec)}."
    if config.purification == "none":
        return "Purification: none, the teacher is distilled as it is."
    if config.purification == AUTO_NAME:
        return (
            "Purification auto: the teacher is inspected first, and a flagged class is unlearned in a copy."
            f"{_inspection_share(config, spec)}"
        )
    name = plugin_name("purifications", config.purification)
    return f"Purification {name} changes a copy of the teacher first."


def _inspection_share(config: DistillConfig, spec: DataSpec) -> str:
    """Returns how much of a budget the inspections take; "" without a budget, or on an accelerator."""
    needed = inspection_seconds(spec)
    if config.budget is None or not needed:
        return ""
    if needed < parse_duration(config.budget, "budget"):
        return f" Both inspections take about {format_duration(needed)} of this time."
    return (
        f" Both inspections take about {format_duration(needed)}, so the run ends late; give --budget "
        f"{math.ceil(2 * needed / 60)}m or --purification none."
    )


def _defense_text(config: DistillConfig) -> str:
    if config.defenses:
        names = ", ".join(plugin_name("defenses", defense) for defense in config.defenses)
        return f"Defenses: {names}; a backdoor may come over all the same."
    if config.purification == "none":
        return "Defenses: none, so a backdoor of the teacher is handed on."
    return "Defenses: none, so a backdoor that the inspection misses is handed on."


def _evaluation_text(config: DistillConfig) -> str:
    options = config.evaluation
    if options.dataset is None:
        return "Evaluation: none; without --evaluation.dataset neither accuracy nor ASR is measured."
    names = ", ".join(dict.fromkeys(trigger.name for trigger in options.triggers))
    return f"Evaluation on {options.dataset}: accuracy, and {f'ASR of {names}' if names else 'no attack'}."
