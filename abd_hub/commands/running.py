"""``abd-hub demo``, ``distill``, ``poison`` and ``sweep``: the commands that train."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from abd_hub.commands.output import speaks
from abd_hub.config.arguments import read_given
from abd_hub.core.errors import Interrupted
from abd_hub.core.screen import CommandParser

_PRINT_ONLY = frozenset({"--print_config", "--print-config"})
"""Taken out before jsonargparse reads the arguments: it has an option of its own by that name."""


def demo(arguments: Sequence[str]) -> int:
    """Poisons a small teacher and distills it four ways."""
    parser = CommandParser(
        "demo",
        "A small teacher is poisoned and distilled four ways, offline, in minutes.",
        "abd-hub demo [options]",
        "abd-hub demo",
        "abd-hub demo --trigger blend --output-dir blend-demo",
    )
    parser.add_argument(
        "--output-dir", default="abd-demo", metavar="FOLDER", help="The results go to this new folder."
    )
    parser.add_argument("--seed", type=int, default=0, help="Every random draw follows from it.")
    parser.add_argument(
        "--trigger", choices=["patch", "blend"], default="patch", help="The teacher is poisoned with it."
    )
    chosen = parser.read(arguments)
    from abd_hub.runs.demo import run_demo

    run_demo(chosen.output_dir, chosen.seed, chosen.trigger)
    return 0


def distill(arguments: Sequence[str]) -> int:
    """Distills as a YAML file and the command line say."""
    read_given(arguments)  # A file that cannot be read is refused before torch is imported.
    from abd_hub.config.parsing import parse_distill
    from abd_hub.evaluation.tables import format_reports
    from abd_hub.runs.distill import distill as run

    config = parse_distill([argument for argument in arguments if argument not in _PRINT_ONLY])
    if _PRINT_ONLY.intersection(arguments):
        print(config.to_yaml(), end="")
        return 0
    record = run(config)
    if not speaks():
        return 0

    if record.teacher_report and record.student_report:
        rows = {"teacher": record.teacher_report, "student": record.student_report}
        print(format_reports(list(rows.items())))
    for defense in record.defenses:
        print(defense.sentence)
    print(f"wrote {config.output_dir}")
    return 0


def poison(arguments: Sequence[str]) -> int:
    """Trains a teacher as a YAML file and the command line say."""
    read_given(arguments)
    from abd_hub.config.parsing import parse_poison
    from abd_hub.evaluation.tables import format_rate, format_reports
    from abd_hub.runs.poison import poison_teacher

    config = parse_poison([argument for argument in arguments if argument not in _PRINT_ONLY])
    if _PRINT_ONLY.intersection(arguments):
        print(config.to_yaml(), end="")
        return 0
    record = poison_teacher(config)
    if speaks():
        print(format_reports([("teacher", record.report)]))
        if record.all_to_all is not None:
            print(f"given the class after their own (all to all): {format_rate(record.all_to_all)}")
        print(f"{record.images_per_second:.0f} images a second; wrote {config.output_dir}")
    return 0


def sweep(arguments: Sequence[str]) -> int:
    """Runs a grid or list of distillations or teachers on Ray; returns 1 where some have failed."""
    chosen = _sweep_arguments(arguments)
    from abd_hub.sweep.config import read_sweep

    plan = read_sweep(chosen.file, output_dir=chosen.output_dir, address=chosen.address)
    from abd_hub.sweep.display import LineDisplay, TableDisplay, format_failures, table_lines
    from abd_hub.sweep.engine import FAILED, look, run_sweep, summary

    if chosen.dry_run:
        found = look(plan)
        print(json.dumps(summary(plan, found), indent=2) if chosen.json else "\n".join(table_lines(found)))
        return 0

    on_terminal = sys.stderr.isatty() and not chosen.json
    lines = LineDisplay(sys.stdout if chosen.json else sys.stderr, as_json=chosen.json)
    try:
        found = run_sweep(plan, TableDisplay(sys.stderr) if on_terminal else lines)
    except Interrupted as stop:
        print(f"abd-hub: {stop}; the same command goes on with them", file=sys.stderr)
        return 130

    failed = any(status.state == FAILED for status in found)
    if chosen.json:
        print(json.dumps({"event": "summary", **summary(plan, found)}))
    elif failed:
        print(format_failures(found))
    if not chosen.json:
        print(f"wrote {plan.file.output_dir}/results.md")
    return int(failed)


def _sweep_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "sweep",
        "A grid or list of distillations or teachers is run on Ray, and a table is made of them.",
        "abd-hub sweep FILE [options]",
        "abd-hub sweep recipes/paper_tables.yaml --dry-run",
        "abd-hub sweep recipes/paper_tables.yaml --output-dir tables",
    )
    parser.add_argument("file", metavar="FILE", help="This YAML file holds a grid or a list of runs.")
    parser.add_argument(
        "--output-dir", metavar="FOLDER", help="The sweep is written there rather than where the file says."
    )
    parser.add_argument(
        "--address",
        help="This Ray cluster runs it, rather than the one of the file or a local one.",
    )
    parser.add_argument("--dry-run", action="store_true", help="All runs are checked and listed, no more.")
    parser.add_argument(
        "--json", action="store_true", help="A JSON object is printed for each change, and a summary."
    )
    return parser.read(arguments)
