"""The arguments of ``abd-hub inspect``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from abd_hub.config.arguments import Given, underscored
from abd_hub.config.choices import Choice, choose
from abd_hub.config.early import check_early
from abd_hub.config.options import ModelOptions
from abd_hub.config.strict import StrictParser, add_help, add_section, make_parser, parse
from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.core.inspections import Inspection
from abd_hub.core.screen import Page

RARE = frozenset({"allow_flagged", "max_size_gb", "labels"})
"""Options of a model that few need."""


def _names() -> tuple[str, ...]:
    return tuple(entry.name for entry in registry.catalog("inspections"))


INSPECTION = Choice("inspection", _names, default=("trigger_inversion",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """What ``abd-hub inspect`` was asked for."""

    model: ModelOptions
    inspection: Inspection
    images: str | None
    split: str
    seed: int
    output_dir: str | None
    json: bool


def parse_inspect(arguments: Sequence[str]) -> InspectRequest:
    """Reads which model is inspected, how, and on which images.

    Raises:
        InputError: as in ``parse_distill``, or a split without images.
    """
    chosen = choose(Given((), tuple(underscored(argument) for argument in arguments)), [INSPECTION])
    (name,) = chosen.names["inspection"]
    check_early(_parser(name, None), chosen, [("inspections", name)], begins=False)
    parser = _parser(name, registry.get("inspections", name))
    found = parse(parser, chosen.arguments)
    check_split(found.images, found.split)
    return InspectRequest(
        model=model_options(found),
        inspection=found[name],
        images=found.images,
        split=found.split or "test",
        seed=found.seed,
        output_dir=found.output_dir,
        json=found.json,
    )


def _parser(name: str, settings: type[Any] | None) -> StrictParser:
    page = Page(
        usage=("abd-hub inspect MODEL [--inspection NAME] [--images SOURCE] [options]",),
        examples=(
            "abd-hub inspect hf-hub:org/name --output_dir inspected",
            "abd-hub inspect runs/student --inspection mm_bd --json",
        ),
        rare=RARE,
    )
    about = "A classifier is examined for a backdoor, without its training data."
    parser = make_parser("abd-hub inspect", about, page)
    _add_subject(parser)
    if settings is not None:
        add_section(parser, f"Inspection {name}", settings, name)
    add_section(parser, "Model", ModelOptions, skip={"id"})
    _add_output(parser)
    return parser


def _add_subject(parser: StrictParser) -> None:
    group = parser.add_argument_group("What to inspect")
    group.add_argument(
        "model",
        type=str,
        metavar="MODEL",
        help="It is a folder, hf-hub:org/name, a name in timm or a file of weights.",
    )
    group.add_argument(
        "--inspection",
        type=str,
        default="trigger_inversion",
        metavar="NAME",
        help=f"One of {', '.join(INSPECTION.known())} examines the model.",
    )
    add_images(group)
    group.add_argument("--seed", type=int, default=0, help="Every random draw follows from it.")


def add_images(group: Any) -> None:
    """Adds the options that name the images to a group of a parser."""
    group.add_argument(
        "--images",
        type=str | None,
        default=None,
        metavar="SOURCE",
        help="The images are those of this folder or data set, rather than patches of two photographs.",
    )
    group.add_argument(
        "--split",
        type=str | None,
        default=None,
        metavar="NAME",
        help="The images are those of this split of the data set, or else of test.",
    )


def check_split(images: str | None, split: str | None) -> None:
    """Refuses a split without images.

    Raises:
        InputError: there is one.
    """
    if split is not None and images is None:
        raise InputError("split: it belongs to a data set; give --images as well")


def model_options(found: Any) -> ModelOptions:
    """Returns the options of the model from what a parser has read."""
    fields = {one.name: found[one.name] for one in dataclasses.fields(ModelOptions) if one.name in found}
    return ModelOptions(**fields | {"id": found.model})


def _add_output(parser: StrictParser) -> None:
    group = parser.add_argument_group("Output")
    group.add_argument(
        "--output_dir",
        type=str | None,
        default=None,
        metavar="FOLDER",
        help="The report and pictures of the triggers are written there.",
    )
    group.add_argument("--json", action="store_true", help="JSON is printed instead of a table.")
    add_help(group)
