"""What an inspection must offer: it examines a classifier and reports whether a class has a backdoor.

An inspection gets no labeled data and no trigger. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from abd_hub.core.plugin_settings import PluginFacts
from abd_hub.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

REPORT_FILE = "inspection.json"
"""In the folder of a finished inspection."""


@dataclass(frozen=True, eq=False)
class FoundTrigger:
    """A trigger that an inspection has found for one class; calling it puts it on images."""

    label: int
    """The class that images with the trigger get."""
    family: str
    """Which kind of trigger was searched, such as ``mask``."""
    size: float
    """How large it is, in the unit of its family; infinite where no trigger reached the class."""
    ordinary_size: float
    """The size that the next class needs in the same family; infinite where no other class was reached."""
    success: float
    """The share of the inspection's images of other classes that it turns into ``label``, 0 to 1."""
    mask: Tensor | None = None
    """(1, H, W) in [0, 1]: how much of each pixel the pattern replaces. It comes with ``pattern``."""
    pattern: Tensor | None = None
    """(C, H, W) in pixel units."""
    delta: Tensor | None = None
    """(C, H, W) in pixel units, added to an image, whose pixels are then cut to [0, 1]."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Puts the trigger on (N, C, H, W) pixels in [0, 1]; a trigger without tensors changes nothing."""
        if self.delta is not None:
            return (pixels + self.delta.to(pixels)).clamp(0, 1)
        if self.mask is None or self.pattern is None:
            return pixels
        mask = self.mask.to(pixels)
        return pixels * (1 - mask) + mask * self.pattern.to(pixels)

    def shown(self) -> tuple[Tensor, Tensor]:
        """Returns pictures of a trigger that has tensors, with values in [0, 1].

        Returns:
            (C, H, W) the trigger on gray, and (1, H, W) how strongly it acts on each pixel.
        """
        if self.delta is not None:
            largest = self.delta.abs().max().clamp(min=1e-12)
            return 0.5 + self.delta / (2 * largest), self.delta.abs().amax(0, keepdim=True) / largest
        assert self.mask is not None and self.pattern is not None, "only a trigger with tensors is drawn"
        return 0.5 + self.mask * (self.pattern - 0.5), self.mask

    def facts(self) -> dict[str, Any]:
        """Returns the numbers for JSON, without the tensors; an infinite size is None."""
        return {
            "label": self.label,
            "family": self.family,
            "size": finite(self.size),
            "ordinary_size": finite(self.ordinary_size),
            "success": self.success,
        }


@dataclass(frozen=True, eq=False)
class InspectionReport:
    """What an inspection has found. Without a flag it does not show that the classifier is clean."""

    name: str
    """The inspection's registered name."""
    flagged: bool
    """Whether a class stands out."""
    suspects: tuple[int, ...]
    """The classes that stand out, the most suspicious first; empty when not flagged."""
    statistics: Mapping[str, tuple[float, ...]]
    """For each family one number a class, such as the size of its smallest trigger. It may be infinite. It is
    NaN for a class that was not searched."""
    scores: Mapping[str, float]
    """For each family the number that decides, such as a ratio of sizes or a p-value."""
    threshold: Mapping[str, float]
    """For each family the largest score that is flagged."""
    detail: str
    """One sentence for people."""
    seconds: float
    """Wall time of the inspection."""
    triggers: tuple[FoundTrigger, ...] = ()
    """For each suspect one a family, or else for the leading class of each family; may be empty."""
    labels: tuple[str, ...] = field(default=())
    """Names of the classes."""

    @property
    def searched(self) -> tuple[int, ...]:
        """Returns the classes that have a statistic."""
        rows = zip(*self.statistics.values(), strict=True)
        return tuple(label for label, row in enumerate(rows) if not all(map(math.isnan, row)))

    def to_json(self) -> dict[str, Any]:
        """Returns all facts but the tensors, for a JSON file; a number that is not finite is None."""
        return {
            "name": self.name,
            "flagged": self.flagged,
            "suspects": list(self.suspects),
            "labels": list(self.labels),
            "searched": list(self.searched),
            "statistics": {name: [finite(one) for one in row] for name, row in self.statistics.items()},
            "scores": dict(self.scores),
            "threshold": dict(self.threshold),
            "detail": self.detail,
            "triggers": [trigger.facts() for trigger in self.triggers],
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> InspectionReport:
        """Returns the report from ``to_json``; its triggers have no tensors.

        Args:
            facts: of a report. A size that is None was infinite: no trigger reached the class. It becomes NaN
                where the class was not searched, which older reports do not state.

        Raises:
            KeyError: a field is missing.
        """
        facts = dict(facts)
        searched = facts.pop("searched", range(len(facts["labels"])))
        statistics = {
            name: tuple(_number(one) if label in searched else math.nan for label, one in enumerate(row))
            for name, row in facts["statistics"].items()
        }
        sizes = ("size", "ordinary_size")
        rows = [row | {name: _number(row[name]) for name in sizes} for row in facts["triggers"]]
        own = {
            "suspects": tuple(facts["suspects"]),
            "labels": tuple(facts["labels"]),
            "statistics": statistics,
            "triggers": tuple(FoundTrigger(**row) for row in rows),
        }
        return cls(**{**facts, **own})


@dataclass(frozen=True, kw_only=True)
class Inspection(PluginFacts, Settings):
    """The settings of an inspection: a frozen dataclass extends this, and registers itself."""

    uses_images: ClassVar[bool] = True
    """False for an inspection that draws its images itself: it gets a tensor without images."""
    unit: ClassVar[str] = ""
    """What its statistics measure, for the head of a table."""

    def inspect(self, teacher: Any, images: Tensor, seed: int = 0) -> InspectionReport:
        """Examines a classifier, which stays as it is.

        Args:
            teacher: a ``Classifier`` on the device of the images.
            images: (n, C, H, W), uint8 or float in [0, 1]. They need no label.
            seed: of every draw.

        Raises:
            InputError: the classifier or the images do not allow an inspection.
        """
        raise NotImplementedError

    def again(self, report: InspectionReport) -> Inspection:
        """Returns the settings that inspect a purified copy of the classifier of a report.

        An inspection may search less than before. By default it searches the same.
        """
        return self


def picture_name(family: str, label: int) -> str:
    """Returns the name of the picture of a trigger."""
    return f"trigger_{family}_{label}.png"


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def finite(value: float) -> float | None:
    """Returns the number, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
