"""This module holds the commands for finished models, such as ``export``, ``card``, ``push`` and ``app``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from abd_hub.commands.output import show
from abd_hub.core.folder import check_exists, check_file
from abd_hub.core.screen import CommandParser

_FORCE = "Replaces a card even if somebody edited it outside of the place for own text."
_LICENSE = "Sets the card's license, by the Hub's name such as mit."
_JSON = "Prints JSON."
_SUFFIXES = {"torch-export": ".pt2", "onnx": ".onnx"}
"""Holds the end of the file's name for each format of ``export``."""


def export_bank(arguments: Sequence[str]) -> int:
    """Writes the synthetic images of a run as a data set."""
    parser = CommandParser(
        "export-bank",
        "Writes the synthetic images that a run has kept as a data set.",
        "abd-hub export-bank RUN FOLDER [--json]",
        "abd-hub export-bank runs/student bank",
    )
    parser.add_argument("run", metavar="RUN", help="Names the folder of a distillation, finished or not.")
    parser.add_argument("folder", metavar="FOLDER", help="Writes the data set to this new folder.")
    parser.add_argument("--json", action="store_true", help=_JSON)
    chosen = parser.read(arguments)

    check_exists(chosen.run, "run", "use the output folder of abd-hub distill")
    from abd_hub.publish.bank_export import check_place, read_bank, write_bank

    check_place(chosen.folder)
    bank = read_bank(chosen.run)
    folder = write_bank(bank, chosen.folder)
    count, _, height, width = bank.images.shape
    facts = {"folder": str(folder), "images": count, "height": height, "width": width}
    text = f"wrote {folder}: {count} images of {width}x{height}, {len(bank.names)} classes"
    show(facts | {"labels": list(bank.names), "rounds": bank.rounds}, text, as_json=chosen.json)
    return 0


def export(arguments: Sequence[str]) -> int:
    """Writes a classifier as one file that runs without abd-hub."""
    parser = CommandParser(
        "export",
        "Writes a classifier as one file that runs without abd-hub, with its normalization inside.",
        "abd-hub export MODEL FILE [options]",
        "abd-hub export runs/student student.pt2",
        "abd-hub export runs/student student.onnx",
    )
    parser.add_argument("model", metavar="MODEL", help="Names a folder or an id of the Hub.")
    parser.add_argument("file", metavar="FILE", help="Writes this file; an existing one is replaced.")
    parser.add_argument(
        "--format",
        choices=tuple(_SUFFIXES),
        help="Chooses a program of torch.export (.pt2) or ONNX (.onnx, needs abd-hub[onnx]); by default the "
        "end of FILE does.",
    )
    parser.add_argument("--json", action="store_true", help=_JSON)
    chosen = parser.read(arguments)

    formats = {suffix: name for name, suffix in _SUFFIXES.items()}
    chosen.format = chosen.format or formats.get(Path(chosen.file).suffix.lower(), "torch-export")
    check_file(chosen.file, "FILE", suffix=_SUFFIXES[chosen.format])
    from abd_hub.runs.export import export_model

    done = export_model(chosen.model, chosen.file, chosen.format)
    share = f"{done.largest_difference:.1g} of the largest logit at most"
    text = (
        f"wrote {done.file}: {done.bytes / 1e6:.2f} MB, pixels {'x'.join(map(str, done.input))} in [0, 1]\n"
        f"its answers to {done.images} patches of photographs differ from the classifier's by {share}"
    )
    show(dataclasses.asdict(done), text, as_json=chosen.json)
    return 0


def card(arguments: Sequence[str]) -> int:
    """Writes the model card of a finished run again from its record."""
    parser = CommandParser(
        "card",
        "Writes the model card of a finished run again from its record.",
        "abd-hub card FOLDER [options]",
        "abd-hub card runs/student",
        "abd-hub card runs/student --repo-id org/name --license mit",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="Names the folder of an abd-hub distill, abd-hub poison or abd-hub purify.",
    )
    parser.add_argument(
        "--repo-id",
        metavar="ORG/NAME",
        help="Explains on the card how to load the model from this repository.",
    )
    parser.add_argument("--license", metavar="ID", help=_LICENSE)
    parser.add_argument("--force", action="store_true", help=_FORCE)
    parser.add_argument("--json", action="store_true", help=_JSON)
    chosen = parser.read(arguments)

    check_exists(chosen.folder, "folder")
    from abd_hub.publish.card_file import rebuild_card

    made = rebuild_card(chosen.folder, repo_id=chosen.repo_id, license_id=chosen.license, force=chosen.force)
    kept = ", your own text kept" if made.own_text else ""
    text = f"{'wrote' if made.changed else 'nothing to change in'} {made.file} ({made.kind}{kept})"
    show(dataclasses.asdict(made) | {"file": str(made.file)}, text, as_json=chosen.json)
    return 0


def push(arguments: Sequence[str]) -> int:
    """Sends a folder to the Hub."""
    parser = CommandParser(
        "push",
        "Sends a finished run, an image bank or a Space to the Hub.",
        "abd-hub push FOLDER ORG/NAME [options]",
        "abd-hub push runs/student org/name --private",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="Names the folder of an abd-hub distill, poison, purify or export-bank, or of a Space.",
    )
    parser.add_argument("repo_id", metavar="ORG/NAME", help="Names the repository, which is made if need be.")
    parser.add_argument(
        "--private",
        action="store_true",
        help="Makes the repository private; an existing public one is refused.",
    )
    parser.add_argument("--license", metavar="ID", help=_LICENSE)
    parser.add_argument("--message", metavar="TEXT", help="Sets the title of the commit.")
    parser.add_argument("--force", action="store_true", help=_FORCE)
    parser.add_argument("--json", action="store_true", help=_JSON)
    chosen = parser.read(arguments)

    check_exists(chosen.folder, "folder")
    from abd_hub.publish.push import format_pushed, push_to_hub

    done = push_to_hub(
        chosen.folder,
        chosen.repo_id,
        private=chosen.private,
        license_id=chosen.license,
        message=chosen.message,
        force=chosen.force,
    )
    show(dataclasses.asdict(done), format_pushed(done), as_json=chosen.json)
    return 0


def app(arguments: Sequence[str]) -> int:
    """Shows models as a page in the web browser."""
    parser = CommandParser(
        "app",
        "Shows a teacher's backdoor, and its fate in the students, as a page in the web browser.",
        "abd-hub app [FOLDER ...] [options]",
        "abd-hub app",
        "abd-hub app runs/teacher runs/student --port 8000 --no-browser",
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="*",
        help="Shows the models of these folders of distill or poison; without any, three small models.",
    )
    parser.add_argument(
        "--port", type=int, help="Serves the page on this port; by default the first free one from 7860 on."
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Serves the page at this address; 0.0.0.0 opens the page to the network.",
    )
    parser.add_argument("--no-browser", action="store_true", help="Opens no browser.")
    chosen = parser.read(arguments)

    from abd_hub_app import launch

    launch(chosen.folders, host=chosen.host, port=chosen.port, browser=not chosen.no_browser)
    return 0
