"""Checks a command before any plug-in is imported: each takes torch along, and torch takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence

from abd_hub.config.arguments import option_pairs, section_name
from abd_hub.config.choices import Chosen
from abd_hub.config.strict import StrictParser, field_names, parse, refuse_unknown_keys
from abd_hub.core.folder import check_begin
from abd_hub.core.plugin_source import setting_names

_HELP = {"-h", "--help", "--help-all", "--help_all"}


def check_early(
    parser: StrictParser, chosen: Chosen, plugins: Sequence[tuple[str, str]], *, begins: bool = True
) -> None:
    """Refuses what the options outside of plug-ins show, and unknown settings of plug-ins.

    Args:
        parser: of the command, without the settings of plug-ins.
        chosen: files and arguments.
        plugins: kind and name of each plug-in that is chosen.
        begins: whether a run begins, and so needs its output folder.

    Raises:
        InputError: a key is unknown, a value is missing or wrong, or the run may not use its output folder.
    """
    if _HELP.intersection(chosen.arguments):
        return
    names = {name: setting_names(kind, name) for kind, name in plugins}
    known = {f"{name}.{field}" for name, fields in names.items() for field in fields or ()}
    # Only an import tells the settings of some plug-ins.
    unread = {name for name, fields in names.items() if fields is None}
    files = [file.without(unread) for file in chosen.files]
    refuse_unknown_keys(field_names(parser) | known, _without(chosen.arguments, unread), files)

    plain = [file.without(set(names)) for file in chosen.files]
    found = parse(parser, _without(chosen.arguments, set(names)), plain)
    # One of several processes may have begun the run already.
    if begins and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        check_begin(found.output_dir, resume=found.resume)


def _without(arguments: Sequence[str], sections: set[str]) -> list[str]:
    """Returns the arguments without the options of some sections."""
    options = {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}
    left_out = {option for option in options if section_name(option) in sections}
    return [value for name, value in option_pairs(arguments, left_out) if name is None]
