"""YAML and command line to a configuration, by jsonargparse, over the dataclasses of ``config``."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from abd_hub.config.options import (
    DistillConfig,
    EvaluationOptions,
    ModelOptions,
    PushOptions,
    StudentOptions,
    TrainerOptions,
    TriggerOptions,
)
from abd_hub.config.poison import (
    NetworkOptions,
    PoisonConfig,
    PoisonOptions,
    TeacherTrainerOptions,
    TrainingDataOptions,
)
from abd_hub.config.recipe import RECIPES
from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.yaml_text import YamlError, read_yaml

SECTIONS = {
    "teacher": ModelOptions,
    "student": StudentOptions,
    "evaluation": EvaluationOptions,
    "trainer": TrainerOptions,
}


POISON_SECTIONS = {
    "data": TrainingDataOptions,
    "network": NetworkOptions,
    "poison": PoisonOptions,
    "evaluation": EvaluationOptions,
    "trainer": TeacherTrainerOptions,
}


def distill_parser() -> ArgumentParser:
    """The parser of ``abd-hub distill``: every field of every section and plug-in."""
    parser = _parser("abd-hub distill", "Distil a teacher into a student without its training data.")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; the command line wins over it.")
    parser.add_argument("--output_dir", type=str, required=True, help="Folder of the run.")
    parser.add_argument("--seed", type=int, default=0, help="Of every random draw.")
    parser.add_argument("--resume", type=bool, default=False, help="Continue from the newest checkpoint.")
    parser.add_argument(
        "--synthesizer", type=str, default="zskt", help=f"One of: {', '.join(_names('synthesizers'))}."
    )
    parser.add_argument(
        "--defenses", type=list[str], default=[], help=f"Any of: {', '.join(_names('defenses'))}."
    )
    parser.add_class_arguments(PushOptions)
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    for kind in ("synthesizers", "defenses"):
        for name in _names(kind):
            parser.add_class_arguments(registry.get(kind, name), name)
    return parser


def parse_distill(arguments: Sequence[str], parser: ArgumentParser | None = None) -> DistillConfig:
    """The configuration that the arguments and their YAML file describe.

    Args:
        arguments: of the command line.
        parser: one that ``distill_parser`` made, for many configurations: making it takes half a second.

    Raises:
        InputError: an unknown key (with its nearest neighbour), a wrong type, a missing value, or settings
            of a plug-in that is not chosen.
    """
    parser = parser or distill_parser()
    found = _parse(parser, arguments)
    _refuse_null(parser, found)
    chosen = [found.synthesizer, *found.defenses]
    registry.get("synthesizers", found.synthesizer)
    for name in found.defenses:
        registry.get("defenses", name)
    _refuse_repeated(found.defenses)
    _refuse_unused(parser, found, chosen)
    return DistillConfig(
        output_dir=found.output_dir,
        seed=found.seed,
        resume=found.resume,
        synthesizer=_settings("synthesizers", found.synthesizer, found),
        defenses=[_settings("defenses", name, found) for name in found.defenses],
        teacher=_section(ModelOptions, found.teacher),
        student=_section(StudentOptions, found.student),
        evaluation=_evaluation(found.evaluation),
        trainer=_section(TrainerOptions, found.trainer),
        **_push(found),
    )


def poison_parser() -> ArgumentParser:
    """The parser of ``abd-hub poison``: every field of every section and recipe."""
    parser = _parser("abd-hub poison", "Train a poisoned teacher, or without --poison.trigger a clean one.")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; the command line wins over it.")
    parser.add_argument("--output_dir", type=str, required=True, help="Folder of the run.")
    parser.add_argument("--seed", type=int, default=0, help="Of every random draw.")
    parser.add_argument("--resume", type=bool, default=False, help="Continue from the newest checkpoint.")
    parser.add_argument("--recipe", type=str, default="paper", help=f"One of: {', '.join(RECIPES)}.")
    parser.add_class_arguments(PushOptions)
    for name, section in (POISON_SECTIONS | RECIPES).items():
        parser.add_class_arguments(section, name)
    return parser


def parse_poison(arguments: Sequence[str], parser: ArgumentParser | None = None) -> PoisonConfig:
    """The configuration of a teacher that the arguments and their YAML file describe.

    Args:
        arguments: of the command line.
        parser: one that ``poison_parser`` made, for many configurations.

    Raises:
        InputError: as in ``parse_distill``.
    """
    parser = parser or poison_parser()
    found = _parse(parser, arguments)
    _refuse_null(parser, found)
    if found.recipe not in RECIPES:
        raise InputError(f"recipe: {found.recipe!r} is unknown; use {', '.join(RECIPES)}")
    defaults = parser.get_defaults()
    for name in set(RECIPES) - {found.recipe}:
        if found[name] != defaults[name]:
            raise InputError(
                f"{name}: settings are given, but recipe is {found.recipe}; set recipe or remove them"
            )
    poison = _section(PoisonOptions, found.poison)
    return PoisonConfig(
        output_dir=found.output_dir,
        seed=found.seed,
        resume=found.resume,
        data=_section(TrainingDataOptions, found.data),
        network=_section(NetworkOptions, found.network),
        poison=dataclasses.replace(poison, surrogate=_optional_model(poison.surrogate)),
        recipe=_section(RECIPES[found.recipe], found[found.recipe]),
        evaluation=_evaluation(found.evaluation),
        trainer=_section(TeacherTrainerOptions, found.trainer),
        **_push(found),
    )


def _push(found: Namespace) -> dict[str, Any]:
    return {field.name: found[field.name] for field in dataclasses.fields(PushOptions)}


def _optional_model(found: Any) -> ModelOptions | None:
    return ModelOptions(**found.as_dict()) if isinstance(found, Namespace) else found


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
    parser = _parser("abd-hub evaluate", "Measure clean accuracy, ASR and robust accuracy of a classifier.")
    parser.add_argument("model", type=str, metavar="MODEL", help="What --teacher.id of distill takes.")
    parser.add_class_arguments(ModelOptions, skip={"id", "revision"})
    parser.add_argument("--revision", type=str | None, default=None, help="Of the model on the Hub.")
    _add_measurement(parser)
    found = _parse(parser, _joined(arguments, "--target"))
    _refuse_null(parser, found)
    model = ModelOptions(**_pick(ModelOptions, found) | {"id": found.model})
    return EvaluateRequest(model=model, json=found.json, **_measurement(found))


def parse_compare(arguments: Sequence[str]) -> CompareRequest:
    """The models, data and attacks that the arguments of ``abd-hub compare`` name.

    Raises:
        InputError: as in ``parse_distill``, or fewer than two models, or one of them twice.
    """
    parser = _parser(
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
    found = _parse(parser, _joined(arguments, "--target"))
    _refuse_null(parser, found)
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
    evaluation = _pick(EvaluationOptions, found) | {
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
        raise InputError(f"{name}: {text} is not valid YAML: {_one_line(str(error))}") from error
    parser = _parser("model", "")
    parser.add_class_arguments(ModelOptions)
    for key in content:
        refuse_unknown(str(key), _fields(parser), f"in {name}")
    try:
        found = parser.parse_object(content)
    except ArgumentError as error:
        raise InputError(f"{name}: {_plain(str(error))}") from error
    return ModelOptions(**_pick(ModelOptions, found))


def _parser(program: str, description: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=program, description=description, exit_on_error=False)


def _parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    arguments = _config_first([_underscored(argument) for argument in arguments])
    known = _fields(parser)
    for file in _config_files(arguments):
        for key in _keys(read_settings(file), known):
            refuse_unknown(key, known, f"in {Path(file).name}")
    for argument in arguments:
        if argument.startswith("--"):
            # --field+ adds to a list
            name = argument[2:].partition("=")[0].removesuffix("+")
            refuse_unknown(name, known | {"help"}, "on the command line")
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise InputError(_plain(str(error))) from error


def _fields(parser: ArgumentParser) -> set[str]:
    """Dotted names of the fields, without the groups that hold them."""
    names = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def _underscored(argument: str) -> str:
    """--output-dir and --output_dir are the same."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _config_first(arguments: Sequence[str]) -> list[str]:
    """The command line wins over the file, wherever on it the file is named."""
    files: list[str] = []
    others: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--config":
            files += [argument, *islice(remaining, 1)]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


def _config_files(arguments: Sequence[str]) -> Iterator[str]:
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            yield argument.partition("=")[2]
        elif argument == "--config":
            yield from arguments[index + 1 : index + 2]


def read_settings(file: str | Path, field: str = "config") -> Mapping[str, Any]:
    """The mapping that a YAML file holds; ``field`` is what its name was given as.

    Raises:
        InputError: the file cannot be read, is no YAML, or holds something else.
    """
    try:
        content = read_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{field}: {file} cannot be read: {error}") from error
    except YamlError as error:
        raise InputError(f"{field}: {file} is not valid YAML: {_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise InputError(f"{field}: {file} must hold a mapping of fields, not {type(content).__name__}")
    return content


def _keys(content: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """Dotted keys down to the fields; what a field itself holds is jsonargparse's to check."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if not any(dest.startswith(f"{key}.") for dest in known):
            yield key
        elif isinstance(value, dict):
            yield from _keys(value, known, f"{key}.")
        else:
            raise InputError(
                f"{key}: must hold a mapping of fields, not {value!r}; leave it out for defaults"
            )


def refuse_unknown(key: str, known: set[str], place: str) -> None:
    """Refuses a dotted key that is none of ``known``, with its nearest neighbour.

    Raises:
        InputError: naming the key and ``place``, where it stands.
    """
    groups = {dest.rpartition(".")[0] for dest in known} - {""}
    # what follows a field that holds a mapping (student.model_args.depth) is not a field of ours
    parts = key.split(".")
    if any(".".join(parts[:count]) in known for count in range(1, len(parts) + 1)) or key in groups:
        return
    near = difflib.get_close_matches(key, known | groups, n=1, cutoff=0.5)
    raise InputError(f"{key}: unknown key {place}" + (f"; did you mean {near[0]}?" if near else ""))


def _refuse_null(parser: ArgumentParser, found: Namespace) -> None:
    # jsonargparse lets null pass for every type
    defaults = parser.get_defaults()
    for name in sorted(_fields(parser)):
        if found.get(name) is None and defaults.get(name) is not None:
            raise InputError(f"{name}: has no value; give one, or leave the field out for its default")


def _refuse_repeated(names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise InputError(f"defenses: {name} is named twice; name each once")


def _refuse_unused(parser: ArgumentParser, found: Namespace, chosen: Sequence[str]) -> None:
    defaults = parser.get_defaults()
    for kind, field in (("synthesizers", "synthesizer"), ("defenses", "defenses")):
        for name in set(_names(kind)) - set(chosen):
            if found[name] != defaults[name]:
                raise InputError(
                    f"{name}: settings are given, but {name} is not chosen; add it to {field} or remove them"
                )


def _settings(kind: str, name: str, found: Namespace) -> Any:
    return registry.get(kind, name)(**found[name].as_dict())


def _section(section: type[Any], found: Namespace) -> Any:
    return section(**{f.name: found[f.name] for f in dataclasses.fields(section)})


def _evaluation(found: Namespace) -> EvaluationOptions:
    options = {f.name: found[f.name] for f in dataclasses.fields(EvaluationOptions)}
    options["triggers"] = [
        trigger if isinstance(trigger, TriggerOptions) else TriggerOptions(**trigger.as_dict())
        for trigger in options["triggers"]
    ]
    if isinstance(options["control"], Namespace):
        options["control"] = ModelOptions(**options["control"].as_dict())
    return EvaluationOptions(**options)


def _pick(section: type[Any], found: Namespace) -> dict[str, Any]:
    return {f.name: found[f.name] for f in dataclasses.fields(section) if f.name in found}


def _names(kind: str) -> list[str]:
    return [entry.name for entry in registry.catalog(kind)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """jsonargparse's message in one line: fields and types by their bare names."""
    text = re.sub(r'Parser key "([^"]+)"', r"\1", _one_line(text))
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    union = (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.+), NoneType\] .* Given value: "
    )
    return re.sub(union, r"Expected a \1. Got value: ", text)
