"""The arguments of ``abd-hub evaluate`` and ``abd-hub compare``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from abd_hub.config.arguments import option_pairs, underscored
from abd_hub.config.options import EvaluationOptions, ModelOptions, TriggerOptions
from abd_hub.config.strict import StrictParser, add_help, add_section, make_parser, parse, parse_mapping
from abd_hub.core.errors import InputError
from abd_hub.core.screen import Page

_RARE_MODEL = frozenset({"allow_flagged", "max_size_gb", "labels"})
_RARE = _RARE_MODEL | {"dataset_config", "dataset_revision", "image_column", "label_column"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """The attack to measure, and what to measure beside it."""

    trigger: str | None = None
    """This trigger is put on the images; abd-hub list triggers names all."""
    trigger_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The trigger has these fields, such as {size: 2}."""
    target: str | None = None
    """The backdoor leads to this class. Several are a comma list or a repeated option, and all means each."""
    control: str | None = None
    """The rate of this model without the backdoor stands beside the ASR. It is named as MODEL is, and chooses
    the target on the same triggered images."""
    corrupted_splits: str | None = None
    """Clean accuracy is measured on these further splits as well, a comma list."""
    dataset_revision: str | None = None
    """The data set comes from this branch, tag or commit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """What ``abd-hub evaluate`` and ``abd-hub compare`` are to measure with."""

    evaluation: EvaluationOptions
    """Everything but the attacks and their control."""
    trigger: str | None
    trigger_options: dict[str, Any]
    targets: tuple[int, ...] | None
    """None for every class of the model."""
    control: ModelOptions | None

    def options(self, num_classes: int) -> EvaluationOptions:
        """With one attack for each target; ``num_classes`` says how many all are."""
        if self.trigger is None:
            return self.evaluation
        targets = range(num_classes) if self.targets is None else self.targets
        triggers = [
            TriggerOptions(name=self.trigger, target=t, options=self.trigger_options) for t in targets
        ]
        return dataclasses.replace(self.evaluation, triggers=triggers, control=self.control)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateRequest(MeasureRequest):
    """What ``abd-hub evaluate`` was asked for."""

    model: ModelOptions
    json: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareRequest(MeasureRequest):
    """What ``abd-hub compare`` was asked for."""

    models: tuple[ModelOptions, ...]
    json: bool
    picture: str | None


def parse_evaluate(arguments: Sequence[str]) -> EvaluateRequest:
    """The model, data and attacks that the arguments of ``abd-hub evaluate`` name.

    Raises:
        InputError: as in ``parse_distill``.
    """
    page = Page(
        usage=("abd-hub evaluate MODEL --dataset NAME [--trigger NAME --target CLASS] [options]",),
        examples=(
            "abd-hub evaluate runs/student --dataset digits",
            "abd-hub evaluate runs/student --dataset digits --trigger badnet_sq --target 0,1 --json",
        ),
        rare=_RARE,
    )
    about = "Accuracy, attack success rate (ASR) and robust accuracy of a classifier are measured."
    parser = make_parser("abd-hub evaluate", about, page)
    group = parser.add_argument_group("What to measure")
    group.add_argument("model", type=str, metavar="MODEL", help="It is what --teacher.id of distill takes.")
    _add_measurement(parser)
    add_section(parser, "Model", ModelOptions, skip={"id", "revision"})
    parser.groups["ModelOptions"].add_argument(
        "--revision", type=str | None, default=None, help="Branch, tag or commit of the model on the Hub."
    )
    found = parse(parser, _prepared(arguments))
    model = ModelOptions(**_fields(ModelOptions, found) | {"id": found.model})
    return EvaluateRequest(model=model, json=found.json, **_measurement(found))


def parse_compare(arguments: Sequence[str]) -> CompareRequest:
    """The models, data and attacks that the arguments of ``abd-hub compare`` name.

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
            raise InputError(f"MODEL: {name} is named twice; name each once, revisions as org/name@revision")
    if found.picture is not None and found.trigger is None:
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
    about = "Several classifiers are measured on the same images, and the first is tested against each other."
    parser = make_parser("abd-hub compare", about, page)
    group = parser.add_argument_group("What to measure")
    group.add_argument(
        "models",
        type=str,
        nargs="+",
        metavar="MODEL",
        help="Two or more are named, each as for abd-hub evaluate, or with options as {id: FILE, "
        "architecture: resnet18, ...}.",
    )
    _add_measurement(parser)
    parser.groups["AttackOptions"].add_argument(
        "--picture",
        type=str | None,
        default=None,
        metavar="FILE.png",
        help="Accuracy is drawn against ASR with their intervals.",
    )
    return parser


def _add_measurement(parser: StrictParser) -> None:
    add_section(parser, "Attack", AttackOptions)
    own = {"triggers", "control", "corrupted_splits", "revision", "per_class", "every", "every_images"}
    add_section(parser, "Data", EvaluationOptions, skip=own)
    group = parser.add_argument_group("Output")
    group.add_argument("--per_class", action="store_true", help="Each true class is counted as well.")
    group.add_argument("--json", action="store_true", help="JSON is printed instead of a table.")
    add_help(group)


def _measurement(found: Namespace) -> dict[str, Any]:
    """The fields of a ``MeasureRequest``."""
    if not found.dataset:
        raise InputError("dataset: nothing to measure on; give --dataset, a Hub id or folder")
    if (found.trigger is None) != (found.target is None):
        missing = "--target" if found.target is None else "--trigger"
        raise InputError(f"{missing[2:]}: a trigger is measured for a target class; give {missing} as well")
    if found.control is not None and found.trigger is None:
        raise InputError("control: is measured on triggered images; give --trigger and --target as well")
    evaluation = _fields(EvaluationOptions, found) | {
        "revision": found.dataset_revision,
        "control": None,
        "corrupted_splits": _words("corrupted_splits", found.corrupted_splits),
    }
    return {
        "evaluation": EvaluationOptions(**evaluation),
        "trigger": found.trigger,
        "trigger_options": found.trigger_options,
        "targets": _targets(found.target),
        "control": None if found.control is None else _model("control", found.control),
    }


def _prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments with underscores in names, and all values of ``--target`` as one comma list."""
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
    """Class numbers in the order given, without checking that there are such classes; None for all."""
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
    """A model by its id, or by a mapping of fields in YAML."""
    return parse_mapping(name, text, ModelOptions) if text.strip().startswith("{") else ModelOptions(id=text)


def _fields(section: type[Any], found: Namespace) -> dict[str, Any]:
    """The options of a section without a prefix, which jsonargparse leaves as they are."""
    return {f.name: found[f.name] for f in dataclasses.fields(section) if f.name in found}
