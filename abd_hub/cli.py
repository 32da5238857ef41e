"""The command ``abd-hub``. Heavy modules are imported only by the commands that need them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from abd_hub import __version__
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.core.registry import PACKAGES, catalog

COMMANDS = {
    "demo": "Poison a small teacher and distil it four ways, offline, in minutes.",
    "distill": "Distil a teacher into a student as a YAML file and the command line say.",
    "poison": "Train a poisoned teacher, or a clean one, to measure attacks and defences.",
    "sweep": "Run a grid or list of distillations or teachers on Ray, and make a table of them.",
    "evaluate": "Measure accuracy and attack success rate of a classifier.",
    "compare": "Measure several classifiers on the same images, in one table and one picture.",
    "export-bank": "Write the synthetic images that a run has kept as a data set.",
    "card": "Write the model card of a finished run again from its record.",
    "push": "Send a finished run, an image bank or a Space to the Hub.",
    "app": "Show a backdoor and what became of it, as a page in the web browser.",
    "list": "List triggers, synthesizers, defenses or students.",
    "env": "Print versions and devices, for a report.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 1 some runs of a sweep have failed, 2 something the user gave is wrong, 130
        interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    chosen = parser.parse_args(given[:1])
    run: Callable[[list[str]], int] = globals()["_" + chosen.command.replace("-", "_")]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "timm", "datasets", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return run(given[1:])
    except InputError as error:
        print(f"abd-hub: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"abd-hub: {stop}; continue with --resume true", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("abd-hub: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:13}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="abd-hub",
        usage="abd-hub COMMAND [options]",
        description="Distil a classifier without its training data and without its backdoor.",
        epilog=f"commands:\n{commands}\n\nabd-hub COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"abd-hub {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


def _list(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub list", description=COMMANDS["list"])
    parser.add_argument("kind", choices=list(PACKAGES), nargs="?", help="all kinds if left out")
    parser.add_argument("--json", action="store_true", help="a list of objects with name and summary")
    parser.add_argument("--picture", metavar="FILE", help="draw all triggers on a few images into a PNG file")
    parser.add_argument(
        "--dataset", metavar="ID", help="whose first images --picture shows (default: two photographs)"
    )
    parser.add_argument("--split", metavar="NAME", help="of --dataset (default: test)")
    chosen = parser.parse_args(arguments)
    _check_list(chosen)
    if chosen.picture is not None:
        return _draw_triggers(chosen.picture, chosen.dataset, chosen.split or "test")
    kinds = [chosen.kind] if chosen.kind else list(PACKAGES)
    if chosen.json:
        rows = [{"kind": k, "name": e.name, "summary": e.summary} for k in kinds for e in catalog(k)]
        print(json.dumps(rows, indent=2))
        return 0
    for kind in kinds:
        print(f"{kind}:")
        for entry in catalog(kind):
            print(f"  {entry.name:20}{entry.summary}")
    return 0


def _check_list(chosen: argparse.Namespace) -> None:
    if chosen.picture is not None and chosen.kind != "triggers":
        raise InputError("picture: only triggers can be drawn; use abd-hub list triggers --picture FILE")
    if chosen.picture is not None and chosen.json:
        raise InputError("json: --picture draws and lists nothing; leave one of them out")
    if chosen.dataset is not None and chosen.picture is None:
        raise InputError("dataset: its images are for the picture; give --picture FILE as well")
    if chosen.split is not None and chosen.dataset is None:
        raise InputError("split: it is that of a data set; give --dataset ID as well")


def _draw_triggers(path: str, dataset: str | None, split: str) -> int:
    from abd_hub.runs.contact_sheet import draw_triggers

    left_out = draw_triggers(path, dataset, split)
    print(f"wrote {path}" + (f" without {', '.join(left_out)}, which needs options" if left_out else ""))
    return 0


def _env(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub env", description=COMMANDS["env"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    import accelerate
    import torch

    from abd_hub.core.record_file import environment

    facts = environment() | {
        "device": str(accelerate.Accelerator().device),
        "threads": str(torch.get_num_threads()),
    }
    print(json.dumps(facts, indent=2) if chosen.json else _lines(facts))
    return 0


def _lines(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name:18}{value}" for name, value in facts.items())


def _distill(arguments: list[str]) -> int:
    from abd_hub.config.parsing import parse_distill
    from abd_hub.evaluation.tables import format_reports
    from abd_hub.runs.distill import distill

    config = parse_distill(arguments)
    record = distill(config)
    if not _speaks():
        return 0
    if record.teacher_report and record.student_report:
        rows = {"teacher": record.teacher_report, "student": record.student_report}
        print(format_reports(list(rows.items())))
    for defense in record.defenses:
        print(defense.sentence)
    print(f"wrote {config.output_dir}")
    return 0


def _poison(arguments: list[str]) -> int:
    from abd_hub.config.parsing import parse_poison
    from abd_hub.evaluation.tables import format_rate, format_reports
    from abd_hub.runs.poison import poison_teacher

    config = parse_poison(arguments)
    record = poison_teacher(config)
    if _speaks():
        print(format_reports([("teacher", record.report)]))
        if record.all_to_all is not None:
            print(f"given the class after their own (all to all): {format_rate(record.all_to_all)}")
        print(f"{record.images_per_second:.0f} images a second; wrote {config.output_dir}")
    return 0


def _sweep(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub sweep", description=COMMANDS["sweep"])
    parser.add_argument("file", metavar="FILE", help="YAML file with a grid or a list of runs")
    parser.add_argument(
        "--output_dir", "--output-dir", help="folder of the sweep (default: that of the file)"
    )
    parser.add_argument("--address", help="Ray cluster to run on (default: that of the file, or a local one)")
    parser.add_argument("--dry-run", action="store_true", help="check all runs and list them; write nothing")
    parser.add_argument("--json", action="store_true", help="print a JSON object a change, and a summary")
    chosen = parser.parse_args(arguments)
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


def _evaluate(arguments: list[str]) -> int:
    from abd_hub.config.measuring import parse_evaluate
    from abd_hub.evaluation.measurement import load_measurement, load_model
    from abd_hub.evaluation.tables import format_reports

    request = parse_evaluate(arguments)
    classifier = load_model(request.model)
    measurement = load_measurement(request.options(classifier.spec.num_classes), classifier)
    assert measurement is not None, "parse_evaluate asks for a data set"
    from accelerate import Accelerator

    report = measurement.report(classifier.to(Accelerator().device))
    if not _speaks():
        return 0
    print(
        json.dumps(dataclasses.asdict(report), indent=2)
        if request.json
        else format_reports([(request.model.id, report)])
    )
    return 0


def _compare(arguments: list[str]) -> int:
    from abd_hub.config.measuring import parse_compare

    request = parse_compare(arguments)
    picture = _picture_file(request.picture)
    from accelerate import Accelerator

    from abd_hub.core.files import atomic_path
    from abd_hub.evaluation.measurement import load_model
    from abd_hub.runs.compare import compare, format_comparison, save_picture, short_names

    names = short_names([model.id for model in request.models])
    models = {name: load_model(model) for name, model in zip(names, request.models, strict=True)}
    options = request.options(models[names[0]].spec.num_classes)
    found = compare(models, options, device=Accelerator().device)
    if not _speaks():
        return 0
    if picture is not None:
        with atomic_path(picture) as temporary:
            save_picture(found, temporary)
    print(json.dumps(dataclasses.asdict(found), indent=2) if request.json else format_comparison(found))
    if picture is not None:
        print(f"wrote {picture}", file=sys.stderr)
    return 0


def _export_bank(arguments: list[str]) -> int:
    summary = COMMANDS["export-bank"]
    parser = argparse.ArgumentParser(prog="abd-hub export-bank", description=summary)
    parser.add_argument("run", metavar="RUN", help="output folder of abd-hub distill, finished or not")
    parser.add_argument("folder", metavar="FOLDER", help="new folder for the data set")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    from abd_hub.publish.bank_export import check_place, read_bank, write_bank

    check_place(chosen.folder)
    bank = read_bank(chosen.run)
    folder = write_bank(bank, chosen.folder)
    count, _, height, width = bank.images.shape
    if chosen.json:
        facts = {"folder": str(folder), "images": count, "height": height, "width": width}
        print(json.dumps(facts | {"labels": list(bank.names), "rounds": bank.rounds}, indent=2))
    else:
        print(f"wrote {folder}: {count} images of {width}x{height}, {len(bank.names)} classes")
    return 0


def _card(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub card", description=COMMANDS["card"])
    parser.add_argument(
        "folder", metavar="FOLDER", help="output folder of a finished abd-hub distill or abd-hub poison"
    )
    parser.add_argument("--repo-id", metavar="ORG/NAME", help="say how to load the model from the Hub")
    parser.add_argument("--license", metavar="ID", help="the Hub's name of the licence (default: as it was)")
    parser.add_argument(
        "--force", action="store_true", help="replace a card that was edited outside the place for own text"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    from abd_hub.publish.card_file import rebuild_card

    made = rebuild_card(chosen.folder, repo_id=chosen.repo_id, license_id=chosen.license, force=chosen.force)
    if chosen.json:
        print(json.dumps(dataclasses.asdict(made) | {"file": str(made.file)}, indent=2))
    else:
        kept = ", your own text kept" if made.own_text else ""
        print(f"{'wrote' if made.changed else 'nothing to change in'} {made.file} ({made.kind}{kept})")
    return 0


def _push(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub push", description=COMMANDS["push"])
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="output folder of abd-hub distill, abd-hub poison or abd-hub export-bank, or that of a Space",
    )
    parser.add_argument("repo_id", metavar="ORG/NAME", help="repository; it is made if there is none")
    parser.add_argument(
        "--private", action="store_true", help="make it private; refused where it is there and public"
    )
    parser.add_argument("--license", metavar="ID", help="the Hub's name of the licence (default: as it was)")
    parser.add_argument("--message", metavar="TEXT", help="title of the commit")
    parser.add_argument(
        "--force", action="store_true", help="replace a card that was edited outside the place for own text"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    from abd_hub.publish.push import format_pushed, push_to_hub

    done = push_to_hub(
        chosen.folder,
        chosen.repo_id,
        private=chosen.private,
        license_id=chosen.license,
        message=chosen.message,
        force=chosen.force,
    )
    print(json.dumps(dataclasses.asdict(done), indent=2) if chosen.json else format_pushed(done))
    return 0


def _app(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub app", description=COMMANDS["app"])
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="*",
        help="models to show: output folders of distill or poison (default: three small ones included)",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen on; 0.0.0.0 opens the page to the network (default: %(default)s, this machine alone)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    chosen = parser.parse_args(arguments)
    from abd_hub_app import launch

    launch(chosen.folders, host=chosen.host, port=chosen.port, browser=not chosen.no_browser)
    return 0


def _picture_file(given: str | None) -> Path | None:
    """Where the picture will go, looked at before the work begins."""
    if given is None:
        return None
    from abd_hub.core.folder import check_file

    check_file(given, "picture", suffix=".png")
    return Path(given)


def _speaks() -> bool:
    """Of several processes the first one prints."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _demo(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="abd-hub demo", description=COMMANDS["demo"])
    parser.add_argument("--output-dir", default="abd-demo", help="new folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (default: %(default)s)")
    parser.add_argument(
        "--trigger",
        choices=["patch", "blend"],
        default="patch",
        help="what the teacher is poisoned with (default: %(default)s)",
    )
    chosen = parser.parse_args(arguments)
    from abd_hub.runs.demo import run_demo

    run_demo(chosen.output_dir, chosen.seed, chosen.trigger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
