"""The arguments of ``abd-hub evaluate`` and ``abd-hub compare``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from abd_hub.config.options import (
    EvaluationOptions,
    ModelOptions,
    TriggerOptions,
)
from abd_hub.config.strict import (
    _plain,
    field_names,
    make_parser,
    parse,
    refuse_null,
    refuse_unknown,
)
from abd_hub.core.errors import InputError, one_line
from abd_hub.core.yaml_text import YamlError, read_yaml


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """The attack to measure, and what to measure beside it."""

    trigger: str | None = None
    """See abd-hub list triggers."""
    trigger_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The trigger's fields."""
    target: str | None = None
    """Class that the backdoor leads to; several as a comma list or by repeating the option, or all."""
    control: str | None = None
    """A model without the backdoor, named as MODEL is: its rate of choosing the target on the same triggered
    images stands beside the ASR."""
    corrupted_splits: str | None = None
    """Further splits of the data set as a comma list, for example corrupted ones: clean accuracy on each."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the data set."""


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
    parser = make_parser(
        "abd-hub evaluate", "Measure clean accuracy, ASR and robust accuracy of a classifier."
    )
    parser.add_argument("model", type=str, metavar="MODEL", help="What --teacher.id of distill takes.")
    parser.add_class_arguments(ModelOptions, skip={"id", "revision"})
    parser.add_argument("--revision", type=str | None, default=None, help="Of the model on the Hub.")
    _add_measurement(parser)
    found = parse(parser, _joined(arguments, "--target"))
    refuse_null(parser, found)
    model = ModelOptions(**pick(ModelOptions, found) | {"id": found.model})
    return EvaluateRequest(model=model, json=found.json, **_measurement(found))


def parse_compare(arguments: Sequence[str]) -> CompareRequest:
    """The models, data and attacks that the arguments of ``abd-hub compare`` name.

    Raises:
        InputError: as in ``parse_distill``, or fewer than two models, or one of them twice.
    """
    parser = make_parser(
        "abd-hub compare", "Measure several classifiers on the same images, and test them in pairs."
    )
    parser.add_argument(
        "models",
        type=str,
        nargs="+",
        metavar="MODEL",
        help="Two or more, each as for abd-hub evaluate; one that needs options as {id: FILE, "
        "architecture: resnet18, ...}. The first is tested against each of the others.",
    )
    _add_measurement(parser)
    parser.add_argument(
        "--picture",
        type=str | None,
        default=None,
        metavar="FILE.png",
        help="Draw accuracy against ASR with their intervals.",
    )
    found = parse(parser, _joined(arguments, "--target"))
    refuse_null(parser, found)
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


def _add_measurement(parser: ArgumentParser) -> None:
    parser.add_class_arguments(AttackOptions)
    own = {"triggers", "control", "corrupted_splits", "revision", "per_class", "every", "every_images"}
    parser.add_class_arguments(EvaluationOptions, skip=own)
    parser.add_argument("--per_class", action="store_true", help="Count for each true class as well.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")


def _measurement(found: Namespace) -> dict[str, Any]:
    """The fields of a ``MeasureRequest``."""
    if not found.dataset:
        raise InputError("dataset: nothing to measure on; give --dataset, a Hub id or folder")
    if (found.trigger is None) != (found.target is None):
        missing = "--target" if found.target is None else "--trigger"
        raise InputError(f"{missing[2:]}: a trigger is measured for a target class; give {missing} as well")
    if found.control is not None and found.trigger is None:
        raise InputError("control: is measured on triggered images; give --trigger and --target as well")
    evaluation = pick(EvaluationOptions, found) | {
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


def _joined(arguments: Sequence[str], option: str) -> list[str]:
    """The values of an option that is given several times, as one comma list."""
    values: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == option:
            value = next(remaining, None)
            # without a value it is jsonargparse that complains
            (others if value is None else values).append(argument if value is None else value)
        elif argument.startswith(f"{option}="):
            values.append(argument.partition("=")[2])
        else:
            others.append(argument)
    return others + ([f"{option}={','.join(values)}"] if values else [])


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
    if not text.strip().startswith("{"):
        return ModelOptions(id=text)
    try:
        content = read_yaml(text)
    except YamlError as error:
        raise InputError(f"{name}: {text} is not valid YAML: {one_line(str(error))}") from error
    parser = make_parser("model", "")
    parser.add_class_arguments(ModelOptions)
    for key in content:
        refuse_unknown(str(key), field_names(parser), f"in {name}")
    try:
        found = parser.parse_object(content)
    except ArgumentError as error:
        raise InputError(f"{name}: {_plain(str(error))}") from error
    return ModelOptions(**pick(ModelOptions, found))


def pick(section: type[Any], found: Namespace) -> dict[str, Any]:
    """Returns the options of ``section`` that were parsed, by name."""
    return {f.name: found[f.name] for f in dataclasses.fields(section) if f.name in found}
