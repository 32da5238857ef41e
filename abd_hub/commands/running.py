"""This module holds the commands that train: ``abd-hub demo``, ``distill``, ``poison`` and ``sweep``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from abd_hub.commands.output import speaks
from abd_hub.core.errors import Interrupted
from abd_hub.core.screen import CommandParser

_PRINT_ONLY = frozenset({"--print_config", "--print-config"})
"""Taken out before jsonargparse reads the arguments: it has an option of its own by that name."""
_DRY = frozenset({"--dry_run", "--dry-run"})


def demo(arguments: Sequence[str]) -> int:
    """Poisons a small teacher and distills it five ways."""
    parser = CommandParser(
        "demo",
        "Poisons a small teacher and distills it five ways, offline, in minutes.",
        "abd-hub demo [options]",
        "abd-hub demo",
        "abd-hub demo --trigger blend --output-dir blend-demo",
    )
    parser.add_argument(
        "--output-dir",
        default="abd-demo",
        metavar="FOLDER",
        help="Writes the results to this folder. An unfinished demo in it goes on.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seeds every random draw.")
    parser.add_argument(
        "--trigger",
        choices=["patch", "blend"],
        default="patch",
        help="Poisons the teacher with this trigger.",
    )
    chosen = parser.read(arguments)

    from abd_hub.config.demo import check_unfinished

    check_unfinished(chosen.output_dir)
    from abd_hub.runs.demo import run_demo

    try:
        run_demo(chosen.output_dir, chosen.seed, chosen.trigger)
    except KeyboardInterrupt:
        print("abd-hub: interrupted; repeat the command to go on", file=sys.stderr)
        return 130
    return 0


def distill(arguments: Sequence[str]) -> int:
    """Distills one student with the settings of YAML file and command line."""
    began = time.monotonic()  # A budget begins before torch is imported.
    given = [argument for argument in arguments if argument not in _PRINT_ONLY | _DRY]
    from abd_hub.config.parsing import check_distill, parse_distill

    check_distill(given, begins=not (_PRINT_ONLY | _DRY).intersection(arguments))

    from abd_hub.core.verdicts import format_verdict
    from abd_hub.evaluation.tables import format_reports
    from abd_hub.runs.distill import distill as run

    config = parse_distill(given)
    if _PRINT_ONLY.intersection(arguments):
        print(config.to_yaml(), end="")
        return 0
    if _DRY.intersection(arguments):
        from abd_hub.runs.dry import dry_distill

        print(dry_distill(config))
        return 0
    record = run(config, began=began)
    if not speaks():
        return 0

    reports = (
        ("teacher", record.teacher_report),
        ("purified copy", record.purified_report),
        ("student", record.student_report),
    )
    rows = [(name, report) for name, report in reports if report is not None]
    if rows:
        print(format_reports(rows))
    for defense in record.defenses:
        print(defense.sentence)
    print(f"{format_verdict(record)}\nwrote {config.output_dir}")
    return 0


def poison(arguments: Sequence[str]) -> int:
    """Trains one teacher with the settings of YAML file and command line."""
    given = [argument for argument in arguments if argument not in _PRINT_ONLY | _DRY]
    from abd_hub.config.parsing import check_poison, parse_poison

    check_poison(given, begins=not (_PRINT_ONLY | _DRY).intersection(arguments))

    from abd_hub.evaluation.tables import format_rate, format_reports
    from abd_hub.runs.poison import poison_teacher

    config = parse_poison(given)
    if _PRINT_ONLY.intersection(arguments):
        print(config.to_yaml(), end="")
        return 0
    if _DRY.intersection(arguments):
        from abd_hub.runs.dry import dry_poison

        print(dry_poison(config))
        return 0
    record = poison_teacher(config)
    if speaks():
        print(format_reports([("teacher", record.report)]))
        if record.all_to_all is not None:
            print(f"images that get the class after their own (all to all): {format_rate(record.all_to_all)}")
        print(f"{record.images_per_second:.0f} images a second; wrote {config.output_dir}")
    return 0


def sweep(arguments: Sequence[str]) -> int:
    """Runs a grid or list of distillations or teachers on Ray; returns 1 if some have failed."""
    chosen = _sweep_arguments(arguments)

    from abd_hub.sweep.config import read_sweep

    plan = read_sweep(chosen.file, output_dir=chosen.output_dir, address=chosen.address)

    from abd_hub.sweep.display import LineDisplay, TableDisplay, format_failures, table_lines
    from abd_hub.sweep.engine import FAILED, look, run_sweep, summary

    if chosen.dry_run:
        from abd_hub.sweep.dry import check_teachers, time_line

        states = look(plan)
        check_teachers(plan)
        lines_of_text = [*table_lines(states), time_line(plan.runs)]
        print(json.dumps(summary(plan, states), indent=2) if chosen.json else "\n".join(lines_of_text))
        return 0

    on_terminal = sys.stderr.isatty() and not chosen.json
    lines = LineDisplay(sys.stdout if chosen.json else sys.stderr, as_json=chosen.json)
    try:
        states = run_sweep(plan, TableDisplay(sys.stderr) if on_terminal else lines)
    except Interrupted as stop:
        print(f"abd-hub: {stop}; repeat the command to continue them", file=sys.stderr)
        return 130

    failed = any(status.state == FAILED for status in states)
    if chosen.json:
        print(json.dumps({"event": "summary", **summary(plan, states)}))
    elif failed:
        print(format_failures(states))
    if not chosen.json:
        results = Path(plan.file.output_dir, "results.md")
        rows = [line for line in results.read_text("utf-8").splitlines() if line.startswith("|")]
        print("\n".join([*rows, f"wrote {results}"]))
    return int(failed)


def _sweep_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "sweep",
        "Runs a grid or list of distillations or teachers on Ray, and writes one table of the results.",
        "abd-hub sweep FILE [options]",
        "abd-hub sweep recipes/paper_tables.yaml --dry-run",
        "abd-hub sweep recipes/paper_tables.yaml --output-dir tables",
    )
    parser.add_argument("file", metavar="FILE", help="Names a YAML file with a grid or a list of runs.")
    parser.add_argument(
        "--output-dir", metavar="FOLDER", help="Writes the sweep to this folder in place of the file's."
    )
    parser.add_argument(
        "--address", help="Uses the Ray cluster at this address, in place of the file's or a local one."
    )
    parser.add_argument("--dry-run", action="store_true", help="Only checks and lists all runs.")
    parser.add_argument(
        "--json", action="store_true", help="Prints a JSON object for each change, and a summary."
    )
    return parser.read(arguments)
