"""abd-hub: distil a classifier without its training data and without its backdoor."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abd_hub.config.options import (
        DistillConfig,
        EvaluationOptions,
        ModelOptions,
        StudentOptions,
        TrainerOptions,
        TriggerOptions,
    )
    from abd_hub.config.parsing import parse_distill
    from abd_hub.config.poison import (
        NetworkOptions,
        PoisonConfig,
        PoisonOptions,
        TeacherTrainerOptions,
        TrainingDataOptions,
    )
    from abd_hub.config.recipe import FastTeacherRecipe, TeacherRecipe
    from abd_hub.core.contracts import Batch, Trigger
    from abd_hub.core.errors import InputError, Interrupted, visible_line
    from abd_hub.core.pickles import is_pickle
    from abd_hub.core.picture_file import decode_picture
    from abd_hub.core.processes import RunProcess, follow_supervisor, thread_settings
    from abd_hub.core.record_file import read_any_record, read_record, read_teacher_record
    from abd_hub.core.records import DataSpec, EvalReport, Rate, RunRecord, TeacherRecord
    from abd_hub.core.registry import catalog, find_plugin
    from abd_hub.data.images import ImageData, load_images
    from abd_hub.defenses.self_retrospection import SelfRetrospection
    from abd_hub.defenses.shuffling_vaccine import ShufflingVaccine
    from abd_hub.defenses.universal_direction import UniversalDirection
    from abd_hub.evaluation.counting import Attack, evaluate, evaluate_answers
    from abd_hub.evaluation.paired import compare_answers, mcnemar
    from abd_hub.evaluation.rates import with_control
    from abd_hub.evaluation.tables import format_table
    from abd_hub.models.attention_maps import AttentionMaps, GradCam
    from abd_hub.models.classifier import Classifier, create_student, load_classifier, save_timm_folder
    from abd_hub.models.weights import load_state_dict_into
    from abd_hub.publish.bank_export import export_bank
    from abd_hub.publish.card_file import rebuild_card
    from abd_hub.publish.push import push_to_hub
    from abd_hub.report.evidence import RunEvidence, read_evidence
    from abd_hub.report.figures import save_accuracy_asr_panels, save_curves, save_divergence
    from abd_hub.report.grids import mark_image
    from abd_hub.runs.compare import compare
    from abd_hub.runs.distill import distill
    from abd_hub.runs.poison import poison_teacher
    from abd_hub.synthesis.cmi import Cmi
    from abd_hub.synthesis.dafl import Dafl
    from abd_hub.synthesis.deepinversion import DeepInversion
    from abd_hub.synthesis.dfad import Dfad
    from abd_hub.synthesis.dfq import Dfq
    from abd_hub.synthesis.fast import Fast
    from abd_hub.synthesis.ood import Ood
    from abd_hub.synthesis.real import Real
    from abd_hub.synthesis.zskt import Zskt
    from abd_hub.training.teacher_trainer import TeacherTrainer
    from abd_hub.training.trainer import Trainer
    from abd_hub.triggers import build_trigger

__version__ = "0.1.0"

_HOMES = {
    "models.attention_maps": ("AttentionMaps", "GradCam"),
    "publish.bank_export": ("export_bank",),
    "publish.card_file": ("rebuild_card",),
    "models.classifier": ("Classifier", "create_student", "load_classifier", "save_timm_folder"),
    "runs.compare": ("compare",),
    "config.options": (
        "DistillConfig",
        "EvaluationOptions",
        "ModelOptions",
        "StudentOptions",
        "TrainerOptions",
        "TriggerOptions",
    ),
    "data.images": ("ImageData", "load_images"),
    "defenses.self_retrospection": ("SelfRetrospection",),
    "defenses.shuffling_vaccine": ("ShufflingVaccine",),
    "defenses.universal_direction": ("UniversalDirection",),
    "evaluation.counting": (
        "Attack",
        "evaluate",
        "evaluate_answers",
    ),
    "evaluation.rates": ("with_control",),
    "evaluation.tables": ("format_table",),
    "report.evidence": ("RunEvidence", "read_evidence"),
    "core.record_file": (
        "read_any_record",
        "read_record",
        "read_teacher_record",
    ),
    "core.processes": ("RunProcess", "follow_supervisor", "thread_settings"),
    "evaluation.paired": ("compare_answers", "mcnemar"),
    "config.parsing": ("parse_distill",),
    "report.figures": (
        "save_accuracy_asr_panels",
        "save_curves",
        "save_divergence",
    ),
    "report.grids": ("mark_image",),
    "runs.distill": ("distill",),
    "synthesis.dafl": ("Dafl",),
    "synthesis.dfad": ("Dfad",),
    "synthesis.dfq": ("Dfq",),
    "synthesis.deepinversion": ("DeepInversion",),
    "synthesis.fast": ("Fast",),
    "synthesis.cmi": ("Cmi",),
    "synthesis.ood": ("Ood",),
    "synthesis.real": ("Real",),
    "synthesis.zskt": ("Zskt",),
    "config.poison": (
        "NetworkOptions",
        "PoisonConfig",
        "PoisonOptions",
        "TeacherTrainerOptions",
        "TrainingDataOptions",
    ),
    "runs.poison": ("poison_teacher",),
    "publish.push": ("push_to_hub",),
    "core.registry": ("catalog", "find_plugin"),
    "config.recipe": ("FastTeacherRecipe", "TeacherRecipe"),
    "training.teacher_trainer": ("TeacherTrainer",),
    "training.trainer": ("Trainer",),
    "triggers": ("build_trigger",),
    "core.contracts": (
        "Batch",
        "Trigger",
    ),
    "core.records": (
        "DataSpec",
        "EvalReport",
        "Rate",
        "RunRecord",
        "TeacherRecord",
    ),
    "core.errors": (
        "InputError",
        "Interrupted",
        "visible_line",
    ),
    "models.weights": ("load_state_dict_into",),
    "core.pickles": ("is_pickle",),
    "core.picture_file": ("decode_picture",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Attack",
    "AttentionMaps",
    "Batch",
    "Classifier",
    "Cmi",
    "Dafl",
    "DataSpec",
    "DeepInversion",
    "Dfad",
    "Dfq",
    "DistillConfig",
    "EvalReport",
    "EvaluationOptions",
    "Fast",
    "FastTeacherRecipe",
    "GradCam",
    "ImageData",
    "InputError",
    "Interrupted",
    "ModelOptions",
    "NetworkOptions",
    "Ood",
    "PoisonConfig",
    "PoisonOptions",
    "Rate",
    "Real",
    "RunEvidence",
    "RunProcess",
    "RunRecord",
    "SelfRetrospection",
    "ShufflingVaccine",
    "StudentOptions",
    "TeacherRecipe",
    "TeacherRecord",
    "TeacherTrainer",
    "TeacherTrainerOptions",
    "Trainer",
    "TrainerOptions",
    "TrainingDataOptions",
    "Trigger",
    "TriggerOptions",
    "UniversalDirection",
    "Zskt",
    "build_trigger",
    "catalog",
    "compare",
    "compare_answers",
    "create_student",
    "decode_picture",
    "distill",
    "evaluate",
    "evaluate_answers",
    "export_bank",
    "find_plugin",
    "follow_supervisor",
    "format_table",
    "is_pickle",
    "load_classifier",
    "load_images",
    "load_state_dict_into",
    "mark_image",
    "mcnemar",
    "parse_distill",
    "poison_teacher",
    "push_to_hub",
    "read_any_record",
    "read_evidence",
    "read_record",
    "read_teacher_record",
    "rebuild_card",
    "save_accuracy_asr_panels",
    "save_curves",
    "save_divergence",
    "save_timm_folder",
    "thread_settings",
    "visible_line",
    "with_control",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch and timm take seconds, ``--help`` must not."""
    if name not in _MODULES:
        raise AttributeError(f"module 'abd_hub' has no attribute {name!r}")
    return getattr(importlib.import_module(f"abd_hub.{_MODULES[name]}"), name)
