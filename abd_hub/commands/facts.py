"""This module holds ``abd-hub list`` and ``abd-hub env``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abd_hub.commands.output import show
from abd_hub.core.errors import InputError
from abd_hub.core.registry import PACKAGES, catalog
from abd_hub.core.screen import CommandParser


def list_plugins(arguments: Sequence[str]) -> int:
    """Lists the names that a configuration can use, or draws the triggers."""
    chosen = _list_arguments(arguments)
    if chosen.picture is not None:
        return _draw_triggers(chosen.picture, chosen.dataset, chosen.split or "test")

    kinds = [chosen.kind] if chosen.kind else list(PACKAGES)
    rows: list[dict[str, str]] = []
    lines: list[str] = []
    for kind in kinds:
        lines.append(f"{kind}:")
        entries = catalog(kind)
        width = max([18, *(len(entry.name) for entry in entries)])
        for entry in entries:
            rows.append({"kind": kind, "name": entry.name, "summary": entry.summary})
            source = f" (package {entry.package})" if entry.package else ""
            lines.append(f"  {entry.name:{width}}  {entry.summary}{source}")
    show(rows, "\n".join(lines), as_json=chosen.json)
    return 0


def env(arguments: Sequence[str]) -> int:
    """Prints the versions of Python and packages, and the device."""
    parser = CommandParser(
        "env", "Prints versions and devices, for a report.", "abd-hub env [--json]", "abd-hub env --json"
    )
    parser.add_argument("--json", action="store_true", help="Prints JSON.")
    chosen = parser.read(arguments)

    import accelerate
    import torch

    from abd_hub.core.record_file import environment

    facts = environment() | {
        "device": str(accelerate.Accelerator().device),
        "threads": str(torch.get_num_threads()),
    }
    show(facts, "\n".join(f"{name:18}{value}" for name, value in facts.items()), as_json=chosen.json)
    return 0


def _list_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "list",
        "Lists the names that a configuration can use, with plug-ins of installed packages.",
        "abd-hub list [KIND] [options]",
        "abd-hub list defenses",
        "abd-hub list triggers --picture triggers.png",
    )
    parser.add_argument(
        "kind",
        choices=list(PACKAGES),
        nargs="?",
        metavar="KIND",
        help=f"Lists one of {', '.join(PACKAGES)}; without it, all of them.",
    )
    parser.add_argument("--json", action="store_true", help="Prints JSON objects with name and summary.")
    parser.add_argument(
        "--picture", metavar="FILE", help="Draws all triggers on a few images into this PNG file."
    )
    parser.add_argument(
        "--dataset", metavar="ID", help="Draws on the first images of this data set, not on two photographs."
    )
    parser.add_argument("--split", metavar="NAME", help="Takes the images from this split; by default test.")
    chosen = parser.read(arguments)
    _check_list(chosen)
    return chosen


def _check_list(chosen: argparse.Namespace) -> None:
    if chosen.picture is not None and chosen.kind != "triggers":
        raise InputError("picture: only triggers can be drawn; use abd-hub list triggers --picture FILE")
    if chosen.picture is not None and chosen.json:
        raise InputError("json: --picture draws and lists nothing; leave one of them out")
    if chosen.dataset is not None and chosen.picture is None:
        raise InputError("dataset: is only used for the picture; give --picture FILE as well")
    if chosen.split is not None and chosen.dataset is None:
        raise InputError("split: is only used with a data set; give --dataset ID as well")


def _draw_triggers(path: str, dataset: str | None, split: str) -> int:
    from abd_hub.runs.contact_sheet import draw_triggers

    left_out = draw_triggers(path, dataset, split)
    print(f"wrote {path}" + (f" without {', '.join(left_out)}, which needs options" if left_out else ""))
    return 0
