"""Sums up what visitors did on the page, as JSON and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from visitor import Act
from visitor_checks import growth
from visitor_table import OUTCOMES

WINDOW = 30.0
"""Sets the seconds over which the picture takes percentiles."""
Samples = Sequence[Mapping[str, float]]


def summary(
    options: Mapping[str, Any],
    acts: Sequence[Act],
    kills: Sequence[Mapping[str, Any]],
    samples: Samples,
    violations: Sequence[str],
) -> dict[str, Any]:
    """Returns all figures of the campaign."""
    rows = [_row(action, acts) for action in dict.fromkeys(act.action for act in acts)]
    return {
        **{name: options[name] for name in ("visitors", "minutes", "pause", "kill_share", "seed")},
        "acts": sorted(rows, key=lambda row: -row["count"]),
        "kills": len(kills),
        "kills told": sum(act.outcome == "killed" for act in acts),
        "full lines": sum(act.outcome == "full" for act in acts),
        "memory": _memory(samples),
        "violations": list(dict.fromkeys(violations)),
    }


def _row(action: str, acts: Sequence[Act]) -> dict[str, Any]:
    own = [act for act in acts if act.action == action]
    ends = Counter(act.outcome for act in own)
    seconds = [act.seconds for act in own if act.outcome not in ("full", "refused")] or [0.0]
    return {
        "action": action,
        "count": len(own),
        **{outcome: ends[outcome] for outcome in OUTCOMES},
        "p50_s": round(float(np.percentile(seconds, 50)), 3),
        "p95_s": round(float(np.percentile(seconds, 95)), 3),
        "max_s": round(max(seconds), 3),
    }


def _memory(samples: Samples) -> dict[str, float]:
    if not samples:
        return {}
    parts = {"start": samples[0], "middle": samples[len(samples) // 2], "end": samples[-1]}
    found = {}
    for name, sample in parts.items():
        found |= {f"{name}_server_mb": round(sample["server_mb"], 1)}
        found |= {f"{name}_{count}": sample[count] for count in ("threads", "files")}
    found["most_server_mb"] = round(max(sample["server_mb"] for sample in samples), 1)
    found["most_children_mb"] = round(max(sample["children_mb"] for sample in samples), 1)
    found["growth_mb_a_minute"] = round(growth(samples), 2)
    return found


def draw(facts: Mapping[str, Any], acts: Sequence[Act], samples: Samples, path: Path) -> None:
    """Draws the latency of answers and the memory of the server over time."""
    figure = Figure(figsize=(7, 5.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)

    answers = [act for act in acts if act.action == "try" and act.outcome == "well"]
    windows: dict[int, list[float]] = {}
    for act in answers:
        windows.setdefault(int(act.began // WINDOW), []).append(act.seconds)
    middles = [(window + 0.5) * WINDOW / 60 for window in sorted(windows)]
    for share, style in ((50, "-"), (95, "--"), (100, ":")):
        values = [float(np.percentile(windows[window], share)) for window in sorted(windows)]
        name = "longest" if share == 100 else f"{share} % within"
        above.plot(middles, values, style, marker="o", markersize=3, label=name)
    above.set_ylabel("seconds to an answer")
    above.set_title(f"{facts['visitors']} visitors, {facts['kills']} killed runs", fontsize=10)

    minutes = [sample["t"] / 60 for sample in samples]
    below.plot(minutes, [sample["server_mb"] for sample in samples], label="server")
    below.plot(minutes, [sample["children_mb"] for sample in samples], linewidth=0.8, label="runs")
    below.set_ylabel("memory, MB")
    below.set_xlabel("minutes")
    for axis in (above, below):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": None})
