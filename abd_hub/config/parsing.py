"""This module turns YAML and command line into a configuration, with jsonargparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from jsonargparse import ActionConfigFile

from abd_hub.config.arguments import read_given
from abd_hub.config.choices import Choice, Chosen, choose
from abd_hub.config.early import check_early
from abd_hub.config.options import (
    AUTO,
    AUTO_NAME,
    DEFAULT_BUDGETS,
    DistillConfig,
    EvaluationOptions,
    ModelOptions,
    PushOptions,
    StudentOptions,
    TrainerOptions,
)
from abd_hub.config.poison import (
    NetworkOptions,
    PoisonConfig,
    PoisonOptions,
    TeacherTrainerOptions,
    TrainingDataOptions,
)
from abd_hub.config.recipe import RECIPES
from abd_hub.config.shorthand import DISTILL, POISON, written_out
from abd_hub.config.strict import StrictParser, add_help, add_section, make_parser, parse
from abd_hub.core import registry
from abd_hub.core.screen import Page


def _names(kind: str) -> tuple[str, ...]:
    return tuple(entry.name for entry in registry.catalog(kind))


METHOD = Choice(
    "synthesizer", lambda: (AUTO_NAME, *_names("synthesizers")), default=(AUTO_NAME,), implied=True
)
DEFENSES = Choice("defenses", lambda: _names("defenses"), default=(), several=True)
PURIFICATION = Choice("purification", lambda: ("auto", "none", *_names("purifications")), default=("auto",))
RECIPE = Choice("recipe", lambda: tuple(RECIPES), default=("paper",))
_RARE_MODEL = (
    "allow_flagged max_size_gb num_classes labels mean std input_size interpolation crop_pct crop_mode "
    "blocks model_args"
)
_RARE_DATA = (
    "dataset_config revision image_column label_column image_size max_size_gb batch_size every_images"
)
_RARE_TRAINER = "dynamo_backend checkpoint_limit log_every trackers"
_RARE_METHOD = (
    "optimizer momentum weight_decay learning_rate_drops learning_rate_warmup clip_norm loss "
    "temperature_squared"
)


def check_distill(arguments: Sequence[str], *, begins: bool = True) -> None:
    """Refuses what can be refused before a plug-in is imported, which takes seconds.

    Args:
        arguments: as for ``parse_distill``.
        begins: whether a run begins, and so needs its output folder.

    Raises:
        InputError: as in ``parse_distill``, except for the values of a plug-in's settings.
    """
    chosen = _chosen_distill(arguments)
    plugins = [("synthesizers", name) for name in chosen.names["synthesizer"] if name != AUTO_NAME]
    plugins += [("defenses", name) for name in chosen.names["defenses"]]
    purification = [name for name in chosen.names["purification"] if name not in ("auto", "none")]
    plugins += [("purifications", name) for name in purification]
    check_early(_distill_parser((), ()), chosen, plugins, begins=begins)


def parse_distill(arguments: Sequence[str]) -> DistillConfig:
    """Returns the configuration that the arguments and their YAML files describe.

    Args:
        arguments: the command line without the word ``distill``. Its choice of plug-ins wins over a file's
            choice; the file's settings of the plug-ins that it replaces are left out. A command that states
            neither rounds nor a time gets the default time of its device.

    Raises:
        InputError: a key is unknown (the message names the nearest). A value is missing or has the wrong
            type. There are settings of a plug-in that nobody has chosen or switched off.
    """
    chosen = _chosen_distill(arguments)
    (method,), defenses = chosen.names["synthesizer"], chosen.names["defenses"]
    (purification,) = chosen.names["purification"]
    methods = {} if method == AUTO_NAME else {method: registry.get("synthesizers", method)}
    classes = methods | {name: registry.get("defenses", name) for name in defenses}
    purifications = _chosen_purification(purification)

    parser = _distill_parser(tuple(classes.items()), tuple(purifications.items()), method)
    found = parse(parser, chosen.arguments, chosen.files)
    counted = found.planned_rounds or chosen.states(f"{method}.rounds")
    return DistillConfig(
        output_dir=found.output_dir,
        budget=found.budget or (None if counted else AUTO_NAME),
        planned_rounds=found.planned_rounds,
        seed=found.seed,
        resume=found.resume,
        synthesizer=found[method] if methods else AUTO,
        defenses=[found[name] for name in defenses],
        purification=found[purification] if purifications else purification,  # type: ignore[arg-type]
        teacher=found.teacher,
        student=found.student,
        evaluation=found.evaluation,
        trainer=_precise(found.trainer, chosen, automatic=not methods),
        **{field.name: found[field.name] for field in dataclasses.fields(PushOptions)},
    )


def _chosen_distill(arguments: Sequence[str]) -> Chosen:
    return choose(read_given(written_out(arguments, DISTILL)), [METHOD, DEFENSES, PURIFICATION])


def _precise(trainer: TrainerOptions, chosen: Chosen, *, automatic: bool) -> TrainerOptions:
    """Returns the options with a precision by device, where the method is chosen and nobody states one."""
    if not automatic or chosen.states("trainer.mixed_precision"):
        return trainer
    return dataclasses.replace(trainer, mixed_precision=AUTO_NAME)


def _chosen_purification(name: str) -> dict[str, type[Any]]:
    """Returns the class of a purification by its name; nothing for auto and none, which have no settings."""
    return {} if name in ("auto", "none") else {name: registry.get("purifications", name)}


@cache
def _distill_parser(
    plugins: tuple[tuple[str, type[Any]], ...],
    purifications: tuple[tuple[str, type[Any]], ...],
    method: str = AUTO_NAME,
) -> StrictParser:
    """Returns the parser for a method, the defenses after it and at most one purification.

    A cache saves 0.1 s the next time. Without plug-ins, it has the options of every distillation.
    """
    page = Page(
        usage=(
            "abd-hub distill MODEL --output_dir FOLDER [options]",
            "abd-hub distill --preset NAME --teacher MODEL --output_dir FOLDER [options]",
        ),
        examples=(
            "abd-hub distill hf-hub:org/name --output_dir student --evaluation.dataset org/data",
            "abd-hub distill --synthesizer dafl --defenses shuffling_vaccine --help",
        ),
        rare=_rare(
            teacher=_RARE_MODEL, evaluation=_RARE_DATA, trainer=_RARE_TRAINER, **{method: _RARE_METHOD}
        ),
    )
    about = (
        "Trains a student on a teacher's answers to synthetic images, without the teacher's training data."
    )
    parser = make_parser("abd-hub distill", about, page)
    _add_budget(_add_run(parser, presets=True))
    add_section(parser, "Teacher, the model to distill", ModelOptions, "teacher")

    _add_plugins(parser)
    for name, plugin_class in plugins:
        add_section(parser, f"{'Method' if name == method else 'Defense'} {name}", plugin_class, name)
    for name, purification_class in purifications:
        add_section(parser, f"Purification {name}", purification_class, name)

    add_section(parser, "Student", StudentOptions, "student")
    add_section(parser, "Evaluation", EvaluationOptions, "evaluation")
    add_section(parser, "Trainer", TrainerOptions, "trainer")
    add_section(parser, "Push to the Hub", PushOptions)
    return parser


def _add_plugins(parser: StrictParser) -> None:
    group = parser.add_argument_group("Method and defenses")
    group.add_argument(
        "--synthesizer",
        type=str,
        default=AUTO_NAME,
        metavar="NAME",
        help="Selects the method that makes the images. By default auto chooses method, settings and "
        f"precision for teacher and device; otherwise one of {', '.join(_names('synthesizers'))}.",
    )
    group.add_argument(
        "--defenses",
        type=list[str],
        default=[],
        metavar="NAMES",
        help="Adds defenses against the backdoor, none or a comma-separated list of "
        f"{', '.join(DEFENSES.known())}.",
    )
    group.add_argument(
        "--purification",
        type=str,
        default="auto",
        metavar="NAME",
        help="Cleans the teacher first: auto inspects it and unlearns what is flagged, none leaves it as it "
        "is and inspects neither teacher nor student; otherwise one of "
        f"{', '.join(_names('purifications'))}.",
    )


def check_poison(arguments: Sequence[str], *, begins: bool = True) -> None:
    """Refuses what can be refused before torch is imported.

    Raises:
        InputError: as in ``parse_poison``.
    """
    chosen = choose(read_given(written_out(arguments, POISON)), [RECIPE])
    check_early(_poison_parser(*chosen.names["recipe"]), chosen, [], begins=begins)


def parse_poison(arguments: Sequence[str]) -> PoisonConfig:
    """Returns the configuration of a teacher that the arguments and their YAML files describe.

    Args:
        arguments: the command line without the word ``poison``.

    Raises:
        InputError: as in ``parse_distill``.
    """
    chosen = choose(read_given(written_out(arguments, POISON)), [RECIPE])
    (recipe,) = chosen.names["recipe"]
    found = parse(_poison_parser(recipe), chosen.arguments, chosen.files)
    return PoisonConfig(
        output_dir=found.output_dir,
        seed=found.seed,
        resume=found.resume,
        data=found.data,
        network=found.network,
        poison=found.poison,
        recipe=found[recipe],
        evaluation=found.evaluation,
        trainer=found.trainer,
        planned_epochs=found.planned_epochs,
        **{field.name: found[field.name] for field in dataclasses.fields(PushOptions)},
    )


@cache
def _poison_parser(recipe: str) -> StrictParser:
    """Returns the parser of ``abd-hub poison`` for one recipe."""
    page = Page(
        usage=(
            "abd-hub poison --data.dataset NAME --output_dir FOLDER [options]",
            "abd-hub poison --config FILE [options]",
        ),
        examples=(
            "abd-hub poison --data.dataset digits --poison.trigger badnet_sq --output_dir teacher",
            "abd-hub poison --recipe fast --help",
        ),
        rare=_rare(data=_RARE_DATA, network="mean std", evaluation=_RARE_DATA, trainer=_RARE_TRAINER),
    )
    about = "Trains a classifier on a data set, with a backdoor if --poison.trigger names one."
    parser = make_parser("abd-hub poison", about, page)
    _add_planned(_add_run(parser), "epoch", "a run whose epochs were raised")
    add_section(parser, "Data to learn from", TrainingDataOptions, "data")
    add_section(parser, "Network", NetworkOptions, "network")
    add_section(parser, "Attack", PoisonOptions, "poison")
    group = parser.add_argument_group("Schedule")
    group.add_argument(
        "--recipe",
        type=str,
        default="paper",
        metavar="NAME",
        help=f"Selects the schedule of the training, {' or '.join(RECIPES)}.",
    )
    add_section(parser, f"Recipe {recipe}", RECIPES[recipe], recipe)
    add_section(parser, "Evaluation", EvaluationOptions, "evaluation")
    add_section(parser, "Trainer", TeacherTrainerOptions, "trainer")
    add_section(parser, "Push to the Hub", PushOptions)
    return parser


def _add_budget(group: Any) -> None:
    group.add_argument(
        "--budget",
        type=str | None,
        default=None,
        metavar="TIME",
        help="Limits the time of the whole run, such as 90s, 20m or 1h30m. The machine is timed, and the "
        "rounds follow, with the settings that depend on them. Without rounds and without a budget, it is "
        f"{DEFAULT_BUDGETS[True]} on a processor and {DEFAULT_BUDGETS[False]} on an accelerator.",
    )
    _add_planned(group, "round", "a run with a budget")


def _add_planned(group: Any, unit: str, run: str) -> None:
    group.add_argument(
        f"--planned_{unit}s",
        type=list[list[int]],
        default=[],
        metavar="PAIRS",
        help=f"Repeats {run}, whose config.yaml has these pairs of a{'n' * (unit == 'epoch')} {unit} and the "
        f"number of {unit}s from there on.",
    )


def _add_run(parser: StrictParser, *, presets: bool = False) -> Any:
    """Adds the options that every run has; returns their group."""
    group = parser.add_argument_group("Run")
    add_help(group)
    group.add_argument(
        "--config",
        action=ActionConfigFile,
        metavar="FILE",
        help="Reads settings from this YAML file. The command line wins over it.",
    )
    if presets:
        group.add_argument(
            "--preset",
            type=str | None,
            default=None,
            metavar="NAME",
            help="Reads settings that are installed with abd-hub, such as cifar10/fast-cpu. An unknown name "
            "shows those near it.",
        )
    group.add_argument(
        "--output_dir",
        type=str,
        required=True,
        metavar="FOLDER",
        help="Writes the results to this folder. It must be new, or hold the same run for --resume.",
    )
    group.add_argument("--seed", type=int, default=0, help="Seeds every random draw.")
    group.add_argument(
        "--resume",
        type=bool,
        default=False,
        help="Continues the run in --output_dir, with the folder's own settings unless a file is named.",
    )
    _add_looks(group)
    return group


def _add_looks(group: Any) -> None:
    """Adds the options with which nothing runs."""
    group.add_argument(
        "--print_config",
        action="store_true",
        help="The complete configuration is printed as YAML, and nothing runs.",
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="Says what the run would do and about how long; nothing is kept.",
    )


def _rare(**sections: str) -> frozenset[str]:
    names = {f"{section}.{name}" for section, fields in sections.items() for name in fields.split()}
    return frozenset(names | {"print_config", "planned_rounds", "planned_epochs"})
