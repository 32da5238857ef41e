"""Measures I-BAU's CIFAR-10 teachers with pictures as triggers, for example with their published ones.

The trigger ``picture`` adds a picture, blends it or puts it in place of the image, wherever its mask is not
zero.

    python recipes/published_pictures.py CIFAR10 TEACHER.pth --target 2 --picture trojan_wm.png add
    python recipes/published_pictures.py CIFAR10 ONE.pth OTHER.pth --target 8 2 --limit 4000 --json \\
        --picture l2_inv.png add --picture l0_inv.png replace l0_inv_mask.npy
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from ibau_teacher import load_teacher

from abd_hub import Attack, InputError, build_trigger, evaluate, format_table, load_images


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Read CIFAR-10 from this Hub id (uoft-cs/cifar10) or folder.")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument(
        "--target", type=int, nargs="+", required=True, help="Name one class for each checkpoint."
    )
    parser.add_argument(
        "--picture",
        nargs="+",
        action="append",
        required=True,
        metavar=("FILE", "MODE"),
        help="Name a file, a mode (replace, add or blend, the default) and perhaps a mask; may be repeated.",
    )
    parser.add_argument("--alpha", type=float, default=0.2, help="Set the share of a picture that blends in.")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="Measure on the first so many images.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    return parser


def attack(words: list[str], alpha: float, target: int) -> Attack:
    """Returns the attack by a picture with this file, mode and mask, of which only the file is necessary."""
    if len(words) > 3:
        raise InputError(f"picture: {' '.join(words)} has more than file, mode and mask; repeat --picture")
    options = dict(zip(("file", "mode", "mask"), words, strict=False)) | {"alpha": alpha}
    shown = {name: Path(value).name if name != "alpha" else value for name, value in options.items()}
    return Attack(Path(words[0]).stem, target, build_trigger("picture", options), shown)


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    if len(options.target) != len(options.checkpoints):
        parser.error(f"--target: name one for each of the {len(options.checkpoints)} checkpoints")
    try:
        attacks = [
            [attack(words, options.alpha, target) for words in options.picture] for target in options.target
        ]
        teachers = [load_teacher(checkpoint) for checkpoint in options.checkpoints]
        data = load_images(options.dataset, options.split, limit=options.limit)
        reports = {
            Path(checkpoint).name: evaluate(teacher, data.images, data.labels, tried, progress=True)
            for checkpoint, teacher, tried in zip(options.checkpoints, teachers, attacks, strict=True)
        }
    except InputError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps({name: dataclasses.asdict(report) for name, report in reports.items()}, indent=2))
    else:
        print(format_table(reports.items()))


if __name__ == "__main__":
    main()
