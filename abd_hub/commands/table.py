"""One table names all commands; a command's module is imported when the command runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abd_hub.core.errors import InputError


@dataclass(frozen=True)
class Command:
    """Describes one command."""

    name: str
    summary: str
    """A sentence of at most 63 characters, which fits a terminal of 80 columns."""
    home: str
    """Module of this package, colon, function; the function maps the other arguments to the exit code."""

    def load(self) -> Callable[[Sequence[str]], int]:
        """Imports the function of the command and returns it."""
        module, _, name = self.home.partition(":")
        function: Callable[[Sequence[str]], int] = getattr(
            importlib.import_module(f"abd_hub.commands.{module}"), name
        )
        return function


FIRST = (
    Command("demo", "Poison a small teacher and distill it five ways, offline.", "running:demo"),
    Command("distill", "Distill a teacher into a student, with or without defenses.", "running:distill"),
    Command("evaluate", "Measure accuracy and attack success rate of a classifier.", "measuring:evaluate"),
)
"""The commands that most people need first."""
FURTHER = (
    Command("inspect", "Examine a classifier for a backdoor, without its data.", "inspecting:inspect"),
    Command("purify", "Make a cleaner copy of a classifier that is flagged.", "purifying:purify"),
    Command("poison", "Train a poisoned teacher, or a clean one for comparison.", "running:poison"),
    Command("sweep", "Run many distillations or teachers on Ray, for one table.", "running:sweep"),
    Command("compare", "Measure several classifiers on the same images.", "measuring:compare"),
    Command("export", "Write a classifier as one file that runs elsewhere.", "sharing:export"),
    Command("export-bank", "Write the synthetic images of a run as a data set.", "sharing:export_bank"),
    Command("card", "Write the model card of a finished run again.", "sharing:card"),
    Command("push", "Send a finished run, an image bank or a Space to the Hub.", "sharing:push"),
    Command("app", "Show a backdoor and its fate in students in the web browser.", "sharing:app"),
    Command("list", "List what can be chosen, such as triggers or defenses.", "facts:list_plugins"),
    Command("env", "Print versions and devices, for a report.", "facts:env"),
)
COMMANDS = {command.name: command for command in (*FIRST, *FURTHER)}
_SCREEN = """usage: abd-hub COMMAND [options]

abd-hub trains a student from a classifier that may hold a backdoor, without
its training data. It measures what came over, and offers defenses.

Begin with one of these commands:
{first}

Further commands:
{further}
abd-hub COMMAND --help shows the options; abd-hub --version shows the version.
"""


def screen() -> str:
    """Returns the help of ``abd-hub``, for one screen of 24 lines and 80 columns."""
    return _SCREEN.format(first=_rows(FIRST), further=_rows(FURTHER))


def find(name: str) -> Command:
    """Returns the command of that name.

    Raises:
        InputError: there is no such command; the message names the nearest.
    """
    if name in COMMANDS:
        return COMMANDS[name]

    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else "abd-hub --help lists the commands"
    raise InputError(f"{name!r} is no command; {remedy}")


def _rows(commands: Sequence[Command]) -> str:
    return "\n".join(f"  {command.name:13}{command.summary}" for command in commands)
