"""Checks the folder of a demo before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from abd_hub.core.errors import InputError
from abd_hub.core.folder import check_folder

SUMMARY_FILE = "summary.json"
"""Marks a finished demo."""


def check_unfinished(output_dir: str) -> None:
    """Refuses a folder in which a demo can neither begin nor go on; the disk stays unchanged.

    Raises:
        InputError: it is not a folder of a demo, or one is finished in it.
    """
    check_folder(output_dir, "output-dir", remedy="use another --output-dir")
    if (Path(output_dir) / SUMMARY_FILE).is_file():
        raise InputError(f"output-dir: {output_dir} holds a finished demo; use another --output-dir")
