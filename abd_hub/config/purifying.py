"""The arguments of ``abd-hub purify``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from abd_hub.config.arguments import Given, underscored
from abd_hub.config.choices import Choice, choose
from abd_hub.config.early import check_early
from abd_hub.config.inspecting import RARE, add_images, check_split, model_options
from abd_hub.config.options import ModelOptions
from abd_hub.config.strict import StrictParser, add_help, add_section, make_parser, parse
from abd_hub.core import registry
from abd_hub.core.purifications import Purification
from abd_hub.core.screen import Page


def _names() -> tuple[str, ...]:
    return tuple(entry.name for entry in registry.catalog("purifications"))


PURIFICATION = Choice("purification", _names, default=("trigger_unlearning",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PurifyRequest:
    """What ``abd-hub purify`` was asked for."""

    model: ModelOptions
    purification: Purification
    images: str | None
    split: str
    force: bool
    seed: int
    output_dir: str
    json: bool


def parse_purify(arguments: Sequence[str]) -> PurifyRequest:
    """Reads which model is purified, how, on which images and into which folder.

    Raises:
        InputError: as in ``parse_inspect``, or the output folder is missing.
    """
    chosen = choose(Given((), tuple(underscored(argument) for argument in arguments)), [PURIFICATION])
    (name,) = chosen.names["purification"]
    check_early(_parser(name, None), chosen, [("purifications", name)], begins=False)
    parser = _parser(name, registry.get("purifications", name))
    found = parse(parser, chosen.arguments)
    check_split(found.images, found.split)

    return PurifyRequest(
        model=model_options(found),
        purification=found[name],
        images=found.images,
        split=found.split or "test",
        force=found.force,
        seed=found.seed,
        output_dir=found.output_dir,
        json=found.json,
    )


def _parser(name: str, settings: type[Any] | None) -> StrictParser:
    page = Page(
        usage=("abd-hub purify MODEL --output_dir FOLDER [--purification NAME] [options]",),
        examples=(
            "abd-hub purify hf-hub:org/name --output_dir purified",
            "abd-hub purify runs/student --purification channel_lipschitz_pruning --output_dir pruned",
        ),
        rare=RARE,
    )
    about = (
        "A cleaner copy of a classifier is made, without its training data. A purification that acts on "
        "flagged classes leaves a model alone that the inspection does not flag."
    )
    parser = make_parser("abd-hub purify", about, page)
    _add_subject(parser)
    if settings is not None:
        add_section(parser, f"Purification {name}", settings, name)
    add_section(parser, "Model", ModelOptions, skip={"id"})
    _add_output(parser)
    return parser


def _add_subject(parser: StrictParser) -> None:
    group = parser.add_argument_group("What to purify")
    group.add_argument(
        "model",
        type=str,
        metavar="MODEL",
        help="It is a folder, hf-hub:org/name, a name in timm or a file of weights.",
    )
    group.add_argument(
        "--purification",
        type=str,
        default="trigger_unlearning",
        metavar="NAME",
        help=f"One of {', '.join(PURIFICATION.known())} changes the copy.",
    )
    group.add_argument(
        "--force", action="store_true", help="A model that is not flagged is purified as well."
    )
    add_images(group)
    group.add_argument("--seed", type=int, default=0, help="Every random draw follows from it.")


def _add_output(parser: StrictParser) -> None:
    group = parser.add_argument_group("Output")
    group.add_argument(
        "--output_dir",
        type=str,
        required=True,
        metavar="FOLDER",
        help="The copy, its card, the report and pictures of the triggers are written to this new folder.",
    )
    group.add_argument("--json", action="store_true", help="JSON is printed instead of sentences.")
    add_help(group)
