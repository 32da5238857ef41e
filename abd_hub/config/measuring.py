"""This module reads the arguments of ``abd-hub evaluate`` and ``abd-hub compare``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from jsonargparse import Namespace

from abd_hub.config.arguments import option_pairs, underscored
from abd_hub.config.options import EvaluationOptions, ModelOptions, TriggerOptions
from abd_hub.config.recorded import RecordedAttacks, recorded_attacks
from abd_hub.config.strict import StrictParser, add_help, add_section, make_parser, parse, parse_mapping
from abd_hub.core.errors import InputError
from abd_hub.core.screen import Page

_RARE_MODEL = frozenset({"allow_flagged", "max_size_gb", "labels"})
_RARE = _RARE_MODEL | {"dataset_config", "dataset_revision", "image_column", "label_column"}


EVERY = "all"
"""Is given in the place of a trigger to try every one."""
NONE = "none"
"""Is given in the place of a trigger to try none, not even those of the folder's record."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Describes the attack to measure, and the measurements beside it."""

    trigger: str | None = None
    """Puts this trigger on the images; abd-hub list triggers shows all names. With all, abd-hub evaluate
    tries every trigger at several sizes and places on up to 1,000 images, and shows the worst first. Without
    this option, it repeats the attacks that the record of MODEL names; none leaves them out."""
    trigger_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Sets the trigger's own fields, such as {size: 2}."""
    target: str | None = None
    """Sets the class number to which the backdoor leads, several separated by commas, or all. The option may
    be repeated."""
    trigger_on: Literal["image", "input"] = "image"
    """Puts the trigger on the image, as an attacker changes a file, before the image is resized and cropped
    for the model; input puts it on the model's input, after that."""
    control: str | None = None
    """Measures this model without the backdoor for comparison with the ASR. It is named as MODEL is. Its rate
    is the share of the same triggered images to which it gives the target."""
    corrupted_splits: str | None = None
    """Measures clean accuracy on these further splits as well, separated by commas."""
    dataset_revision: str | None = None
    """Selects a branch, tag or commit of the data set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """Holds the data and attacks of ``abd-hub evaluate`` and ``abd-hub compare``."""

    evaluation: EvaluationOptions
    """All options but the attacks and their control."""
    trigger: str | None
    """Name of a trigger, or ``EVERY``; None to measure no attack."""
    trigger_options: dict[str, Any]
    targets: tuple[int, ...] | None
    """Class numbers; None for every class of the model."""
    control: ModelOptions | None

    def options(self, num_classes: int) -> EvaluationOptions:
        """Returns the evaluation with one attack for each target; the model has ``num_classes``."""
        if self.trigger in (None, EVERY):
            control = self.control if self.evaluation.triggers else None
            return dataclasses.replace(self.evaluation, control=control)
        assert self.trigger is not None, "it is the name of a trigger"

        targets = range(num_classes) if self.targets is None else self.targets
        triggers = [
            TriggerOptions(name=self.trigger, target=target, options=self.trigger_options)
            for target in targets
        ]
        return dataclasses.replace(self.evaluation, triggers=triggers, control=self.control)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateRequest(MeasureRequest):
    """Holds the arguments of ``abd-hub evaluate``."""

    model: ModelOptions
    json: bool
    note: str
    """Says what the folder's own record has to do with the measurement; "" for nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareRequest(MeasureRequest):
    """Holds the arguments of ``abd-hub compare``."""

    models: tuple[ModelOptions, ...]
    json: bool
    picture: str | None


def parse_evaluate(arguments: Sequence[str]) -> EvaluateRequest:
    """Returns the model, data and attacks that the arguments of ``abd-hub evaluate`` name.

    Raises:
        InputError: as in ``parse_distill``.
    """
    page = Page(
        usage=("abd-hub evaluate MODEL --dataset NAME [--trigger NAME --target CLASS] [options]",),
        examples=(
            "abd-hub evaluate runs/student --dataset digits",
            "abd-hub evaluate runs/student --dataset digits --trigger badnet_sq --target 0,1 --json",
            "abd-hub evaluate runs/student --dataset digits --trigger all --target all",
        ),
        rare=_RARE,
    )
    about = "Measures accuracy, attack success rate (ASR) and robust accuracy of a classifier."
    parser = make_parser("abd-hub evaluate", about, page)
    group = parser.add_argument_group("What to measure")
    group.add_argument(
        "model",
        type=str,
        metavar="MODEL",
        help="Names the classifier by the folder of a run, a timm name, hf-hub:org/name[@revision], a "
        "transformers checkpoint (Hub id or folder), or a file of weights for --architecture.",
    )
    _add_measurement(parser)
    # One limit holds for the files of the model and for those of the data.
    add_section(parser, "Model", ModelOptions, skip={"id", "revision", "max_size_gb"})
    parser.groups["ModelOptions"].add_argument(
        "--revision", type=str | None, default=None, help="Selects a branch, tag or commit on the Hub."
    )

    found = parse(parser, _prepared(arguments))
    model = ModelOptions(**_fields(ModelOptions, found) | {"id": found.model})
    recorded = recorded_attacks(found.model)
    measured = _measurement(found, recorded)
    return EvaluateRequest(model=model, json=found.json, note=_note(found, recorded), **measured)


def _note(found: Namespace, recorded: RecordedAttacks | None) -> str:
    if recorded is None or found.trigger in (EVERY, NONE):
        return ""
    if found.trigger is None:
        return recorded.note()
    targets = _targets(found.target)
    return recorded.difference(found.trigger, found.trigger_options, targets, found.trigger_on)


def parse_compare(arguments: Sequence[str]) -> CompareRequest:
    """Returns the models, data and attacks that the arguments of ``abd-hub compare`` name.

    Raises:
        InputError: as in ``parse_distill``, or fewer than two models, or one of them twice.
    """
    parser = _compare_parser()
    found = parse(parser, _prepared(arguments))
    models = tuple(_model("MODEL", text) for text in found.models)

    if len(models) < 2:
        raise InputError(f"MODEL: only {models[0].id} is named; name at least two to compare")
    ids = [model.id for model in models]
    for name in ids:
        if ids.count(name) > 1:
            raise InputError(f"MODEL: {name} is named twice; name each once, a revision as org/name@revision")
    if found.trigger == EVERY:
        raise InputError("trigger: all is for abd-hub evaluate, one model at a time; name one trigger")
    if found.picture is not None and found.trigger in (None, NONE):
        raise InputError("picture: shows accuracy against ASR; give --trigger and --target as well")

    return CompareRequest(models=models, json=found.json, picture=found.picture, **_measurement(found))


def _compare_parser() -> StrictParser:
    page = Page(
        usage=("abd-hub compare MODEL MODEL ... --dataset NAME [--trigger NAME --target CLASS] [options]",),
        examples=(
            "abd-hub compare runs/teacher runs/student --dataset digits",
            "abd-hub compare runs/teacher runs/student --dataset digits --trigger badnet_sq --target 0 "
            "--picture asr.png",
        ),
        rare=_RARE,
    )
    about = "Measures several classifiers on the same images, and tests the first against each other one."
    parser = make_parser("abd-hub compare", about, page)
    group = parser.add_argument_group("What to measure")
    group.add_argument(
        "models",
        type=str,
        nargs="+",
        metavar="MODEL",
        help="Names two or more classifiers, each as for abd-hub evaluate, or with options as {id: FILE, "
        "architecture: resnet18, ...}.",
    )
    _add_measurement(parser)
    parser.groups["AttackOptions"].add_argument(
        "--picture",
        type=str | None,
        default=None,
        metavar="FILE.png",
        help="Draws accuracy against ASR, with intervals, into this file.",
    )
    return parser


def _add_measurement(parser: StrictParser) -> None:
    add_section(parser, "Attack", AttackOptions)
    own = {"triggers", "trigger_on", "control", "corrupted_splits", "revision", "per_class"}
    add_section(parser, "Data", EvaluationOptions, skip=own | {"every", "every_images"})
    group = parser.add_argument_group("Output")
    group.add_argument("--per_class", action="store_true", help="Counts for each true class as well.")
    group.add_argument("--json", action="store_true", help="Prints JSON instead of a table.")
    add_help(group)


def _measurement(found: Namespace, recorded: RecordedAttacks | None = None) -> dict[str, Any]:
    """Returns the fields of a ``MeasureRequest``, with a record's attacks where no trigger is chosen."""
    trigger = None if found.trigger == NONE else found.trigger
    repeated = recorded if found.trigger is None else None
    _check_attack(found, trigger, repeated)

    evaluation = _fields(EvaluationOptions, found) | {
        "revision": found.dataset_revision,
        "control": None,
        "corrupted_splits": _words("corrupted_splits", found.corrupted_splits),
    }
    if repeated:
        evaluation |= {"triggers": list(repeated.triggers), "trigger_on": repeated.trigger_on}
    return {
        "evaluation": EvaluationOptions(**evaluation),
        "trigger": trigger,
        "trigger_options": found.trigger_options,
        "targets": _targets(found.target),
        "control": None if found.control is None else _model("control", found.control),
    }


def _check_attack(found: Namespace, trigger: str | None, repeated: RecordedAttacks | None) -> None:
    if not found.dataset:
        raise InputError("dataset: is missing; give --dataset with a Hub id or folder")
    if (trigger is None) != (found.target is None):
        missing = "--target" if found.target is None else "--trigger"
        raise InputError(f"{missing[2:]}: an attack needs both trigger and target; give {missing} as well")
    if found.control is not None and trigger is None and not (repeated and repeated.triggers):
        raise InputError("control: is measured on triggered images; give --trigger and --target as well")
    if trigger == EVERY and found.trigger_options:
        raise InputError("trigger_options: belong to one trigger; name it instead of all, or leave them out")


def _prepared(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with underscores in names, and all values of ``--target`` as one comma list."""
    values: list[str] = []
    others: list[str] = []
    for option, value in option_pairs([underscored(argument) for argument in arguments], {"target"}):
        if option and not value:
            raise InputError("target: has no value; give class numbers, or leave it out")
        (values if option else others).append(value)
    return others + ([f"--target={','.join(values)}"] if values else [])


def _words(name: str, text: str | None) -> list[str]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if "" in words:
        raise InputError(f"{name}: {text!r} has an empty entry; separate names by single commas")
    return words


def _targets(text: str | None) -> tuple[int, ...] | None:
    """Returns class numbers in the user's order, which may name absent classes; None for all."""
    words = _words("target", text)
    if words == ["all"]:
        return None
    for word in words:
        if not re.fullmatch(r"-?\d{1,9}", word):
            remedy = "use class numbers, a comma list of them, or all alone"
            raise InputError(f"target: {word!r} is no class number; {remedy}")

    targets = tuple(int(word) for word in words)
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(f"target: {target} is given twice; give each target once")
    return targets


def _model(name: str, text: str) -> ModelOptions:
    """Returns the model of an id, or of a mapping of fields in YAML."""
    return parse_mapping(name, text, ModelOptions) if text.strip().startswith("{") else ModelOptions(id=text)


def _fields(section: type[Any], found: Namespace) -> dict[str, Any]:
    """Returns the options of a section without a prefix, from which jsonargparse makes no dataclass."""
    names = [field.name for field in dataclasses.fields(section)]
    return {name: found[name] for name in names if name in found}
