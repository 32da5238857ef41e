"""Writes out the short forms of the command line, where each has one meaning only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from abd_hub.config.arguments import option_pairs, underscored
from abd_hub.core.errors import InputError
from abd_hub.core.files import CONFIG_FILE, RECORD_FILE
from abd_hub.core.folder import is_ours

DISTILL = {"teacher": "teacher.id", "student": "student.architecture"}
POISON = {"data": "data.dataset", "network": "network.architecture"}
"""Sections of ``abd-hub distill`` and ``poison``, with the field that a bare value of the section means."""
YES, NO = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})


def written_out(arguments: Sequence[str], sections: Mapping[str, str]) -> list[str]:
    """Returns the arguments with underscores in names and without short forms.

    - A first word without hyphens names the first of ``sections``, as in ``distill MODEL``.
    - ``--teacher X`` means ``--teacher.id X``.
    - ``--resume`` without a file goes on with the config.yaml in ``--output_dir``. The first word may name
      this folder as well.
    """
    given = [underscored(argument) for argument in arguments]
    word = given.pop(0) if given and not given[0].startswith("-") else None
    resumes = _resumes(given)
    folder = _last(given, "output_dir")
    if word is not None:
        if resumes and folder is None and is_unfinished(word):
            folder = word
            given.append(f"--output_dir={word}")
        else:
            given.insert(0, f"--{next(iter(sections.values()))}={word}")
    given = _with_fields(given, sections)
    own_files = _last(given, "config") is None and _last(given, "preset") is None
    if resumes and own_files and folder is not None:
        needed = next(iter(sections.values()))
        if is_unfinished(folder):
            given.insert(0, f"--config={Path(folder) / CONFIG_FILE}")
        elif _last(given, needed) is None:
            raise InputError(
                f"resume: {folder} holds no unfinished run, and a finished one takes no new budget; "
                f"check --output_dir, or give --{needed} as well to begin one"
            )
    return given


def is_unfinished(folder: str) -> bool:
    """Returns whether the folder holds a run that has begun and not ended."""
    path = Path(folder)
    return is_ours(path) and not (path / RECORD_FILE).exists()


def _with_fields(arguments: Sequence[str], sections: Mapping[str, str]) -> list[str]:
    """Returns the arguments with the names of fields in place of the names of sections."""
    written: list[str] = []
    for name, value in option_pairs(arguments, set(sections)):
        is_mapping = value.lstrip().startswith("{") or Path(value).suffix in (".yaml", ".yml")
        written.append(value if name is None else f"--{name if is_mapping else sections[name]}={value}")
    return written


def _resumes(arguments: Sequence[str]) -> bool:
    for place, argument in enumerate(arguments):
        if argument == "--resume":
            following = arguments[place + 1].lower() if place + 1 < len(arguments) else ""
            return following not in NO
        if argument.startswith("--resume="):
            return argument.partition("=")[2].lower() in YES
    return False


def _last(arguments: Sequence[str], name: str) -> str | None:
    values = [value for found, value in option_pairs(arguments, {name}) if found is not None]
    return values[-1] if values else None


def with_values(arguments: Sequence[str], switches: set[str]) -> list[str]:
    """Returns the arguments with ``=true`` after each switch that has no value.

    Args:
        arguments: with underscores in names.
        switches: names of the options that are true or false.
    """
    written = list(arguments)
    for place, argument in enumerate(arguments):
        following = arguments[place + 1].lower() if place + 1 < len(arguments) else ""
        if argument[2:] in switches and argument.startswith("--") and following not in YES | NO:
            written[place] = f"{argument}=true"
    return written
