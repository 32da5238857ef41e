"""YAML and command line to a configuration, by jsonargparse, over the dataclasses of ``config``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

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
from abd_hub.config.strict import (
    make_parser,
    parse,
    refuse_null,
)
from abd_hub.core import registry
from abd_hub.core.errors import InputError

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
    parser = make_parser("abd-hub distill", "Distil a teacher into a student without its training data.")
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
    found = parse(parser, arguments)
    refuse_null(parser, found)
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
    parser = make_parser(
        "abd-hub poison", "Train a poisoned teacher, or without --poison.trigger a clean one."
    )
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
    found = parse(parser, arguments)
    refuse_null(parser, found)
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


def _names(kind: str) -> list[str]:
    return [entry.name for entry in registry.catalog(kind)]
