"""Holds what every method and defense tells of itself: to cards, to the page, and to a run with a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class PluginFacts:
    """Describes a method or a defense to cards, the page and budgets; every entry has a default.

    Students and triggers do not extend this class, and may have an attribute ``citation`` all the same.
    """

    citation: ClassVar[str] = ""
    """BibTeX entry of the plug-in's paper, which the cards of its runs cite; empty for none."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns settings with which a CPU shows a first result within minutes.

        They are the fields, other than ``rounds`` (1 to some thousands), that differ from their defaults.
        None means that no settings are that quick; then the page does not offer the plug-in.
        """
        return None

    def for_rounds(self, rounds: int) -> dict[str, Any]:
        """Returns the fields that must change where a budget allows ``rounds`` rounds, at least 2.

        They are fields that count rounds, such as a warm-up. A method's own ``rounds`` is not among them.
        """
        return {}
