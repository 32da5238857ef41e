"""Cleans the teacher of a distillation before its first round, and inspects the student after its last.

The copy's weights go into ``teacher_purified.safetensors`` and the report into ``purification.json``. A run
that is resumed reads both. One process computes, and all processes take over its weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn

from abd_hub.config.options import DistillConfig, TrainerOptions
from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.inspections import InspectionReport
from abd_hub.core.purifications import REPORT_FILE, Purification, PurificationReport
from abd_hub.core.records import DataSpec
from abd_hub.inspection.trigger_inversion import TriggerInversion
from abd_hub.learning.precision import Precision
from abd_hub.models.classifier import Classifier
from abd_hub.purification.trigger_unlearning import TriggerUnlearning
from abd_hub.runs.finishing import SAMPLES
from abd_hub.runs.inspect import inspect_model, write_triggers
from abd_hub.runs.purify import purify_model
from abd_hub.training.running import in_main_process

logger = logging.getLogger(__name__)
WEIGHTS_FILE = "teacher_purified.safetensors"
MOST_PIXELS = 1 << 18
"""Most classes times pixels that ``auto`` inspects: 256 classes of 32x32, or 5 of 224x224. Ten classes of
32x32 take three minutes of one AVX2 core, so this much takes 75."""


def purify_teacher(
    config: DistillConfig, teacher: Classifier, accelerator: Accelerator
) -> Mapping[str, Any] | None:
    """Purifies a run's teacher in place, or takes over what the run has done before it was interrupted.

    Args:
        config: of the run, whose folder is claimed.
        teacher: frozen, on the accelerator's device.
        accelerator: of all processes.

    Returns:
        The report as JSON; None where ``config.purification`` is "none".

    Raises:
        InputError: the chosen purification does not fit the teacher. With "auto", the report says so.
    """
    if config.purification == "none":
        return None
    folder = Path(config.output_dir)

    def make() -> None:
        if not _is_made(folder):
            _make(config, teacher, folder)

    in_main_process(accelerator, make)
    return _taken_over(teacher, folder, accelerator)


def inspect_student(
    purification: Mapping[str, Any] | None, student: Classifier, seed: int, precision: Precision = "no"
) -> Mapping[str, Any] | None:
    """Inspects the finished student where the teacher was inspected.

    A teacher that looks clean can still hand a backdoor on (SCAR, NeurIPS 2025), so its student is inspected
    for all classes. Where triggers were unlearned, the student is inspected as the copy was.

    Args:
        purification: report of ``purify_teacher``.
        student: finished.
        seed: of the run.
        precision: of the student's passes.

    Returns:
        The report as JSON; None where the teacher was not inspected.
    """
    if purification is None or purification["inspected"] is None:
        return None
    try:
        inspection = TriggerInversion(mixed_precision=precision)
        if purification["changed"]:
            inspection = inspection.again(InspectionReport.from_json(purification["inspected"]))
        return inspect_model(student, inspection=inspection, seed=seed).to_json()
    except InputError as error:
        logger.warning("The student cannot be inspected: %s", error)
        return None


def inspection_precision(options: TrainerOptions) -> Precision:
    """Returns the precision of a run's inspections and of its unlearning: bf16 where the run has it.

    On one AVX-512 core with bf16, a step of the inversion takes 0.12 instead of 0.18 s for a ResNet-20.
    """
    return "bf16" if options.mixed_precision == "bf16" else "no"


def _is_made(folder: Path) -> bool:
    """Returns whether the report is there, and the weights where it needs them."""
    if not (folder / REPORT_FILE).is_file():
        return False
    return not files.read_json(folder / REPORT_FILE)["changed"] or (folder / WEIGHTS_FILE).is_file()


def _make(config: DistillConfig, teacher: Classifier, folder: Path) -> None:
    copy, report = _purified(config, teacher)
    if report.changed:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in copy.state_dict().items()}
        with files.atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary)
    if report.inspected is not None:
        write_triggers(report.inspected, teacher, folder / SAMPLES)
    # The report marks the purification as done, so it comes last.
    files.write_json(folder / REPORT_FILE, report.to_json())


def _purified(config: DistillConfig, teacher: Classifier) -> tuple[Classifier, PurificationReport]:
    precision = inspection_precision(config.trainer)
    inspection = TriggerInversion(mixed_precision=precision)
    if isinstance(config.purification, Purification):
        return purify_model(
            teacher, purification=config.purification, inspection=inspection, force=True, seed=config.seed
        )
    refusal = too_large(teacher.spec)
    if not refusal:
        try:
            unlearning = TriggerUnlearning(mixed_precision=precision)
            return purify_model(teacher, purification=unlearning, inspection=inspection, seed=config.seed)
        except InputError as error:
            refusal = str(error)
    logger.warning("The teacher is not inspected: %s", refusal)
    detail = f"The teacher was not inspected, and it is left as it is: {refusal}."
    return teacher, PurificationReport(name="none", changed=False, detail=detail)


def too_large(spec: DataSpec) -> str:
    """Returns why ``auto`` does not inspect a teacher of this size; "" where it does."""
    if spec.num_classes * spec.height * spec.width <= MOST_PIXELS:
        return ""
    return (
        f"{spec.num_classes} classes of {spec.height}x{spec.width} take hours on a processor; "
        "--purification trigger_unlearning does it all the same"
    )


def _taken_over(teacher: Classifier, folder: Path, accelerator: Accelerator) -> Mapping[str, Any]:
    """Gives every process the main one's report, and its weights where they have changed."""
    report: list[Any] = [None]
    if accelerator.is_main_process:
        report = [files.read_json(folder / REPORT_FILE)]
        if report[0]["changed"]:
            _fill(teacher, load_file(folder / WEIGHTS_FILE))
    if accelerator.num_processes > 1:
        broadcast_object_list(report)
        if report[0]["changed"]:
            _fill(teacher, broadcast(dict(teacher.state_dict())))
    facts: Mapping[str, Any] = report[0]
    return facts


@torch.no_grad()
def _fill(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies the values, so that whoever holds the network's own tensors has them as well."""
    network.load_state_dict(dict(tensors))
