"""This module draws a board of clean and triggered images with the verdict of every model below each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from abd_hub.report.grids import BLACK, GRAY, VERMILION


class VerdictBoard:
    """Fills a figure row by row; all lengths are inches from its top left corner."""

    CELL, LINE, MARGIN, BREAK = 1.15, 0.24, 0.1, 0.14

    def __init__(self, count: int, names: Sequence[str], dpi: int) -> None:
        longest = max((len(name) for name in names), default=0)
        self.left = max(1.3, 0.085 * longest + 0.2)
        self.width = self.left + count * self.CELL + self.MARGIN
        part = self.CELL + self.LINE * len(names) + self.BREAK
        self.height = self.MARGIN + self.LINE + 2 * part + self.LINE + self.MARGIN
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi, facecolor="white")
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.axis.axis("off")
        self.top = self.MARGIN

    def heading(self, labels: Sequence[str]) -> None:
        """Writes the true label above each column."""
        self._name("true label")
        for index, label in enumerate(labels):
            self._text(self._middle(index), label, fontweight="bold")
        self.top += self.LINE

    def images(self, images: NDArray[np.uint8], title: str) -> None:
        """Draws a row of images, (N, H, W, 3), with a title on the left."""
        side = self.CELL - 0.1
        self.axis.text(
            self.left - 0.12,
            self.top + side / 2,
            title,
            ha="right",
            va="center",
            fontsize=10,
            fontweight="bold",
        )
        scale = side / max(images.shape[1:3])
        height, width = (scale * extent for extent in images.shape[1:3])
        for index, image in enumerate(images):
            x, y = self._middle(index) - width / 2, self.top + (side - height) / 2
            extent = (x, x + width, y + height, y)
            self.axis.imshow(image, extent=extent, interpolation="nearest", aspect="auto")
            # A white trigger at the edge must not melt into the page.
            self.axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=GRAY, linewidth=0.8))
        self.axis.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.top += self.CELL - 0.05

    def verdicts(self, name: str, labels: Sequence[str], kinds: Sequence[str]) -> None:
        """Writes the verdicts of one model; the kind of each is ``right``, ``backdoor`` or ``mistake``."""
        self._name(name)
        for index, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
            x = self._middle(index)
            if kind == "backdoor":
                self._box(x, self.CELL - 0.1)
                self._text(x, f"✗ {label}", color="white", fontweight="bold")
            elif kind == "mistake":
                self._text(x, f"({label})", color=GRAY, style="italic")
            else:
                self._text(x, label, color=BLACK)
        self.top += self.LINE

    def legend(self) -> None:
        """Explains the marks, below all rows."""
        self._box(self.left + 0.16, 0.24)
        self._text(self.left + 0.16, "✗", color="white", fontweight="bold")
        note = "gets the target only with the trigger      (gray) any other mistake"
        self.axis.text(
            self.left + 0.36, self.top + self.LINE / 2, note, ha="left", va="center", fontsize=8, color=GRAY
        )

    def _middle(self, index: int) -> float:
        return self.left + (index + 0.5) * self.CELL

    def _name(self, name: str) -> None:
        self._text(self.left - 0.12, name, ha="right")

    def _text(self, x: float, text: str, **style: Any) -> None:
        defaults: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": False}
        self.axis.text(x, self.top + self.LINE / 2, text, **(defaults | style))

    def _box(self, x: float, width: float) -> None:
        box = Rectangle(
            (x - width / 2, self.top + 0.015), width, self.LINE - 0.03, color=VERMILION, linewidth=0
        )
        self.axis.add_patch(box)
