"""What a purification must offer: it makes a cleaner copy of a classifier, and reports what it changed.

A purification gets no labeled data and no trigger of an attacker. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from abd_hub.core.inspections import InspectionReport
from abd_hub.core.plugin_settings import PluginFacts
from abd_hub.core.settings import Settings

REPORT_FILE = "purification.json"
"""In the folder of a purified model, and of a run that purified its teacher."""


@dataclass(frozen=True, kw_only=True)
class PurificationReport:
    """Reports what a purification changed. It does not show that the copy is clean."""

    name: str
    """Registered name of the purification; "none" where the classifier was left alone."""
    changed: bool
    """Whether the copy differs from the classifier."""
    detail: str
    """One sentence for people."""
    agreement: float = 1.0
    """Share of held-back images, 0 to 1, to which the copy gives the classifier's class."""
    suspects: tuple[int, ...] = ()
    """Classes whose triggers were unlearned; empty where the purification needs no class."""
    success_before: float | None = None
    """Share of images that the found triggers turn into their class in the classifier; None without one."""
    success_after: float | None = None
    """The same in the copy, for the same triggers. It does not show that no other trigger is left."""
    seconds: float = 0.0
    """Wall time of the purification, without the inspections."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for machines, in JSON types only."""
    inspected: InspectionReport | None = None
    """Inspection of the classifier; None where the purification needs none."""
    reinspected: InspectionReport | None = None
    """Inspection of the copy; None where the classifier was left alone or needs none."""

    def to_json(self) -> dict[str, Any]:
        """Returns all facts but the triggers' tensors, for a JSON file."""
        return {
            "name": self.name,
            "changed": self.changed,
            "detail": self.detail,
            "agreement": self.agreement,
            "suspects": list(self.suspects),
            "success_before": self.success_before,
            "success_after": self.success_after,
            "seconds": round(self.seconds, 3),
            "facts": dict(self.facts),
            "inspected": self.inspected.to_json() if self.inspected else None,
            "reinspected": self.reinspected.to_json() if self.reinspected else None,
        }


@dataclass(frozen=True, kw_only=True)
class Purification(PluginFacts, Settings):
    """The settings of a purification: a frozen dataclass extends this, and registers itself."""

    needs_suspects: ClassVar[bool] = True
    """Whether it acts on the suspects of an inspection; it then leaves a classifier without one alone."""

    def purify(
        self, teacher: Any, images: Any, report: InspectionReport | None, seed: int = 0
    ) -> tuple[Any, PurificationReport]:
        """Makes a cleaner copy of a classifier, which stays as it is.

        Args:
            teacher: a frozen ``Classifier`` on the device of the images.
            images: (n, C, H, W), uint8 or float in [0, 1]. They need no label.
            report: of an inspection of this classifier; None is possible only without ``needs_suspects``.
            seed: of every draw.

        Returns:
            A frozen copy in eval mode on the same device, and the report without the inspections.

        Raises:
            InputError: the classifier, the images or the report do not allow a purification.
        """
        raise NotImplementedError
