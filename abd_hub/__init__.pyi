# ruff: noqa: I001
# This table holds the public names, each with the module that defines it. `__init__.py` reads it at import,
# so a new name is added only here. A type checker takes `A as A` as public.

from abd_hub.commands.purifying import (
    format_purification as format_purification,
)
from abd_hub.config.options import (
    DistillConfig as DistillConfig,
    EvaluationOptions as EvaluationOptions,
    ModelOptions as ModelOptions,
    StudentOptions as StudentOptions,
    TrainerOptions as TrainerOptions,
    TriggerOptions as TriggerOptions,
)
from abd_hub.config.parsing import (
    parse_distill as parse_distill,
)
from abd_hub.config.poison import (
    NetworkOptions as NetworkOptions,
    PoisonConfig as PoisonConfig,
    PoisonOptions as PoisonOptions,
    TeacherTrainerOptions as TeacherTrainerOptions,
    TrainingDataOptions as TrainingDataOptions,
)
from abd_hub.config.recipe import (
    FastTeacherRecipe as FastTeacherRecipe,
    TeacherRecipe as TeacherRecipe,
)
from abd_hub.core.contracts import (
    Batch as Batch,
    Trigger as Trigger,
)
from abd_hub.core.errors import (
    InputError as InputError,
    Interrupted as Interrupted,
    visible_line as visible_line,
)
from abd_hub.core.findings import (
    Finding as Finding,
    headline as headline,
)
from abd_hub.core.inspections import (
    FoundTrigger as FoundTrigger,
    Inspection as Inspection,
    InspectionReport as InspectionReport,
)
from abd_hub.core.purifications import (
    Purification as Purification,
    PurificationReport as PurificationReport,
)
from abd_hub.core.pickles import (
    is_pickle as is_pickle,
)
from abd_hub.core.picture_file import (
    decode_picture as decode_picture,
)
from abd_hub.core.processes import (
    RunProcess as RunProcess,
    follow_supervisor as follow_supervisor,
    thread_settings as thread_settings,
)
from abd_hub.core.record_file import (
    read_any_record as read_any_record,
    read_purified_record as read_purified_record,
    read_record as read_record,
    read_teacher_record as read_teacher_record,
)
from abd_hub.core.records import (
    DataSpec as DataSpec,
    EvalReport as EvalReport,
    PurifiedRecord as PurifiedRecord,
    Rate as Rate,
    RunRecord as RunRecord,
    TeacherRecord as TeacherRecord,
)
from abd_hub.core.registry import (
    catalog as catalog,
    find_plugin as find_plugin,
)
from abd_hub.core.verdicts import (
    verdict as verdict,
)
from abd_hub.data.mixed import (
    MixedImages as MixedImages,
)
from abd_hub.data.images import (
    ImageData as ImageData,
    load_images as load_images,
)
from abd_hub.defenses.dhbe import (
    Dhbe as Dhbe,
)
from abd_hub.defenses.self_retrospection import (
    SelfRetrospection as SelfRetrospection,
)
from abd_hub.defenses.shuffling_vaccine import (
    ShufflingVaccine as ShufflingVaccine,
)
from abd_hub.defenses.universal_direction import (
    UniversalDirection as UniversalDirection,
)
from abd_hub.evaluation.attacks import (
    Attack as Attack,
)
from abd_hub.evaluation.counting import (
    evaluate as evaluate,
    evaluate_answers as evaluate_answers,
)
from abd_hub.evaluation.paired import (
    compare_answers as compare_answers,
    mcnemar as mcnemar,
)
from abd_hub.evaluation.rates import (
    with_control as with_control,
)
from abd_hub.evaluation.tables import (
    format_table as format_table,
)
from abd_hub.inspection.mm_bd import (
    MmBd as MmBd,
)
from abd_hub.inspection.trigger_inversion import (
    TriggerInversion as TriggerInversion,
)
from abd_hub.learning.progress import (
    progress_listener as progress_listener,
)
from abd_hub.models.attention_maps import (
    AttentionMaps as AttentionMaps,
    GradCam as GradCam,
)
from abd_hub.models.classifier import (
    Classifier as Classifier,
    create_student as create_student,
    load_classifier as load_classifier,
)
from abd_hub.models.saving import (
    save_timm_folder as save_timm_folder,
)
from abd_hub.models.weights import (
    load_state_dict_into as load_state_dict_into,
)
from abd_hub.publish.bank_export import (
    export_bank as export_bank,
)
from abd_hub.publish.card_file import (
    rebuild_card as rebuild_card,
)
from abd_hub.publish.push import (
    push_to_hub as push_to_hub,
)
from abd_hub.purification.channel_lipschitz_pruning import (
    ChannelLipschitzPruning as ChannelLipschitzPruning,
)
from abd_hub.report.evidence import (
    RunEvidence as RunEvidence,
    read_evidence as read_evidence,
)
from abd_hub.report.figures import (
    save_accuracy_asr_panels as save_accuracy_asr_panels,
    save_curves as save_curves,
    save_divergence as save_divergence,
)
from abd_hub.report.grids import (
    mark_image as mark_image,
)
from abd_hub.purification.trigger_unlearning import (
    TriggerUnlearning as TriggerUnlearning,
)
from abd_hub.runs.compare import (
    compare as compare,
)
from abd_hub.runs.distill import (
    distill as distill,
)
from abd_hub.runs.export import (
    export_model as export_model,
)
from abd_hub.runs.inspect import (
    inspect_model as inspect_model,
)
from abd_hub.runs.poison import (
    poison_teacher as poison_teacher,
)
from abd_hub.runs.purified_folder import (
    save_purified as save_purified,
)
from abd_hub.runs.purify import (
    purify_model as purify_model,
)
from abd_hub.synthesis.cmi import (
    Cmi as Cmi,
)
from abd_hub.synthesis.dafl import (
    Dafl as Dafl,
)
from abd_hub.synthesis.deepinversion import (
    DeepInversion as DeepInversion,
)
from abd_hub.synthesis.dfad import (
    Dfad as Dfad,
)
from abd_hub.synthesis.dfq import (
    Dfq as Dfq,
)
from abd_hub.synthesis.fast import (
    Fast as Fast,
)
from abd_hub.synthesis.ood import (
    Ood as Ood,
)
from abd_hub.synthesis.real import (
    Real as Real,
)
from abd_hub.synthesis.zskt import (
    Zskt as Zskt,
)
from abd_hub.training.teacher_trainer import (
    TeacherTrainer as TeacherTrainer,
)
from abd_hub.training.trainer import (
    Trainer as Trainer,
)
from abd_hub.triggers import (
    build_trigger as build_trigger,
)

__version__: str
__all__: list[str]
