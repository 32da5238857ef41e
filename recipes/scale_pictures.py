"""Draws how costs grow, from the JSON files of scale.py: one picture for each thing that grows.

python recipes/scale_pictures.py [--results recipes/results/scale]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
LINES = {
    "classes": {"inspection_s": "an inspection", "round_s": "a round of ZSKT"},
    "sizes": {"inspection_s": "an inspection", "round_s": "a round of ZSKT, 10 steps of 16 images"},
    "processes": {"round_s": "a round of ZSKT, 10 steps of 64 images"},
    "runs": {"wall_a_run_s": "a run, with what the sweep adds", "inside_a_run_s": "what a run itself takes"},
}
"""The lines of each picture; all are seconds."""
GROWS = {
    "classes": "classes",
    "sizes": "pixels of a side",
    "processes": "processes on two cores",
    "runs": "runs of a sweep",
}


def points(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the points of one kind, by their value."""
    found = [json.loads(file.read_text()) for file in folder.glob(f"{kind}_*.json")]
    return sorted(found, key=lambda point: point["value"])


def draw(found: list[dict[str, Any]], kind: str, path: Path) -> None:
    """Draws the seconds over what grows, both on logarithmic axes."""
    figure = Figure(figsize=(5, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    values = [point["value"] for point in found]

    for field, name in LINES[kind].items():
        seconds = [point[field] for point in found]
        axis.plot(values, seconds, marker="o", label=name)
        for place in zip(values, seconds, strict=True):
            axis.annotate(f"{place[1]:.3g}", place, xytext=(0, 6), textcoords="offset points", ha="center")

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.margins(0.1, 0.2)
    axis.set_xlabel(GROWS[kind])
    axis.set_ylabel("seconds")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=HERE / "results" / "scale", help="Holds the JSON files."
    )
    folder = parser.parse_args().results
    for kind in LINES:
        if found := points(folder, kind):
            draw(found, kind, folder / f"{kind}.png")
            print(f"wrote {folder / kind}.png")


if __name__ == "__main__":
    main()
