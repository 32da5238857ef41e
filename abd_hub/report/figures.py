"""This module draws PNG files of divergences, training curves, verdicts and accuracy over ASR.

The colors are Okabe and Ito's, which people with color blindness can distinguish. No fact depends on color
alone. pyplot is not used, because its global state leaks memory and is unsafe in threads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from abd_hub.core.evidence import Divergence
from abd_hub.core.records import Rate
from abd_hub.report.grids import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, zoomed
from abd_hub.report.verdict_board import VerdictBoard

_SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = "osD^vPX"
_BINS = 40
_DPI = 150
_LONGEST_NAME = 40
_RATES = "accuracy and ASR during training"
_AGREEMENT = "agreement with the teacher"


def save_divergence(found: Divergence, path: str | Path) -> None:
    """Draws the histogram of a divergence: suspicious images, other images and the threshold.

    Args:
        found: a divergence of at least one image.
        path: the PNG file to write.
    """
    values = np.log10(np.maximum(np.asarray(found.kl, dtype=np.float64), 1e-12))
    suspicious = np.asarray(found.suspicious, dtype=bool)
    threshold = math.log10(max(found.threshold, 1e-12))
    reach = (min(values.min(), threshold) - 0.05, max(values.max(), threshold) + 0.05)
    edges = 10 ** np.linspace(*reach, _BINS + 1)
    parts = [np.histogram(10 ** values[part], edges)[0] for part in (suspicious, ~suspicious)]
    below = int((values < threshold).sum())

    figure = Figure(figsize=(7.5, 4.4), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    agree = f"the copies give the teacher's class ({int(suspicious.sum())})"
    names = (
        f"suspicious: {agree}" if found.warns else f"{agree}; no warning without a passed check",
        f"the others ({int((~suspicious).sum())})",
    )
    style: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.5}
    first = VERMILION if found.warns else BLUE
    axis.bar(edges[:-1], parts[0], np.diff(edges), color=first, hatch="///", label=names[0], **style)
    axis.bar(edges[:-1], parts[1], np.diff(edges), bottom=parts[0], color=SKY, label=names[1], **style)
    where = "of the vaccine check" if found.judged else "(mean - 3 std of these images)"
    label = f"threshold {where}: {below} below, {len(values) - below} above"
    axis.axvline(10**threshold, color=BLACK, linestyle="--", linewidth=1.6, label=label)

    axis.set_xscale("log")
    axis.set_xticks(*_log_ticks(*reach))
    axis.minorticks_off()
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(edges[0], edges[-1])
    axis.set_xlabel("KL(teacher || mean of its shuffled copies), in nats")
    axis.set_ylabel("images")
    figure.legend(fontsize=9, frameon=False, loc="outside upper left")
    _tidy(axis)
    _save(figure, path)


def _log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Returns about a dozen round values from 10**low to 10**high, and their labels."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 4 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
    return shown, [f"{tick:g}" for tick in shown]


def save_curves(log: Sequence[Mapping[str, float]], path: str | Path, unit: str = "round") -> None:
    """Draws every logged figure over the rounds.

    Accuracy and attack success rates share the first panel, and all shares of agreement the next; both run
    from 0 to 1. All names that end in ``_loss`` share the panel after them. A figure that is 0 in all rounds,
    such as the penalty of a defense that is off, has no panel.

    Args:
        log: rows with ``round`` and figures; a row need not hold every figure.
        path: the PNG file to write.
        unit: the name of one round on the axis.

    Raises:
        ValueError: the log holds no figure.
    """
    panels = _panels(log)
    if not panels:
        raise ValueError("log: holds no figure to draw")

    figure = Figure(figsize=(7.5, 0.6 + 2.1 * len(panels)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name, color, marker in zip(names, cycle(_SERIES), cycle(_MARKERS), strict=False):
            # Rates are few and their curves cross, so markers distinguish them too.
            _curve(axis, *_column(log, name), _words(name), color, marker if title == _RATES else "")
        _caption(axis, title, len(names))
        if title in (_RATES, _AGREEMENT):
            axis.set_ylim(-0.03, 1.03)
        _tidy(axis)
    axes[-1].set_xlabel(unit)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _caption(axis: Any, title: str, count: int) -> None:
    """Writes the title and, for several curves, their legend, above them: no corner is free of all curves."""
    rows = math.ceil(count / 2) if count > 2 else 0
    title_style = {"fontsize": 10, "fontweight": "bold"}
    axis.set_title(title, loc="left", pad=6 + 13 * rows, fontdict=title_style)
    if count > 1:
        side, at = ("lower left", 0) if rows else ("lower right", 1)
        axis.legend(fontsize=8, frameon=False, loc=side, bbox_to_anchor=(at, 0.97), ncols=2)


_ATTACK = re.compile(r"asr_([a-z0-9_]+?)_(\d+(?:_\d+)?)")


def save_verdicts(
    clean: Any,
    triggered: Any,
    rows: Mapping[str, tuple[list[str], list[str]]],
    true_labels: Sequence[str],
    target: str,
    path: str | Path,
) -> None:
    """Draws clean and triggered images, and under each image the verdict of every model.

    A verdict that is the target only with the trigger gets a filled box. Other mistakes stand in brackets.

    Args:
        clean: (N, C, H, W) float in [0, 1].
        triggered: the same images with the trigger.
        rows: model name to (verdicts on clean, verdicts on triggered), N label names each.
        true_labels: N label names.
        target: label name to which the trigger leads.
        path: the PNG file to write.

    Raises:
        ValueError: the lengths do not agree.
    """
    count = len(true_labels)
    pictures = (zoomed(clean), zoomed(triggered))
    lengths = [len(images) for images in pictures] + [len(said) for pair in rows.values() for said in pair]
    if not count or any(length != count for length in lengths):
        raise ValueError(f"clean, triggered and every verdict list must hold {count or 'some'} entries")

    board = VerdictBoard(count, [_short(name) for name in rows], _DPI)
    board.heading([_short(label, 14) for label in true_labels])
    for part, title in enumerate(("clean", "with trigger")):
        board.images(pictures[part], title)
        for name, pair in rows.items():
            columns = zip(true_labels, pair[0], pair[part], strict=True)
            kinds = [_kind(part, true, before, now, target) for true, before, now in columns]
            board.verdicts(_short(name), [_short(label, 14) for label in pair[part]], kinds)
        board.top += board.BREAK
    board.legend()
    _save(board.figure, path)


def save_accuracy_asr(points: Sequence[tuple[str, Rate, Rate]], path: str | Path) -> None:
    """Draws accuracy over attack success rate, with intervals; the top left corner is best.

    Args:
        points: (name, accuracy, attack success rate).
        path: the PNG file to write.
    """
    save_accuracy_asr_panels([("", points)], path)


def save_accuracy_asr_panels(
    panels: Sequence[tuple[str, Sequence[tuple[str, Rate, Rate]]]], path: str | Path
) -> None:
    """Draws ``save_accuracy_asr`` for several attacks, with up to three panels in a row.

    Args:
        panels: (title, points) of each; a model keeps its color and marker by its place.
        path: the PNG file to write.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("panels: there is no attack to draw")

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.4 * columns, 5.2 * rows), dpi=_DPI, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for axis, (title, points) in zip(axes, panels, strict=False):
        _scatter(axis, title, points)

    FigureCanvasAgg(figure).draw()
    # The layout is final now, and a label must not change it.
    figure.set_layout_engine("none")
    for axis, (_, points) in zip(axes, panels, strict=False):
        _label_points(axis, points)
    _save(figure, path)


def _scatter(axis: Any, title: str, points: Sequence[tuple[str, Rate, Rate]]) -> None:
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    if title:
        axis.set_title(_short(title), loc="left", fontsize=10, fontweight="bold", parse_math=False)
    axis.set_xlabel("attack success rate on the attack tried (lower is better)")
    axis.set_ylabel("accuracy (higher is better)")
    for index, (_, accuracy, asr) in enumerate(points):
        axis.errorbar(
            [asr.value],
            [accuracy.value],
            xerr=_bars(asr),
            yerr=_bars(accuracy),
            # The marker shifts after every 7 points, so no two of 49 points share color and marker.
            fmt=_MARKERS[(index + index // len(_SERIES)) % len(_MARKERS)],
            color=_SERIES[index % len(_SERIES)],
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.5,
            capsize=3,
        )
    _tidy(axis)


def _kind(part: int, true: str, before: str, now: str, target: str) -> str:
    if now == true:
        return "right"
    return "backdoor" if part == 1 and now == target != before else "mistake"


def _panels(log: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    names = [name for name in dict.fromkeys(key for row in log for key in row) if name != "round"]
    rates = [name for name in names if name == "accuracy" or name.startswith("asr_")]
    losses = [name for name in names if name.endswith("_loss") or name == "loss"]
    agreements = [name for name in names if name.startswith("agreement_")]
    shared = {_RATES: rates, _AGREEMENT: agreements, "loss": losses}
    panels = {title: part for title, part in shared.items() if part}
    others = [name for name in names if name not in rates + agreements + losses]
    return panels | {_words(name): [name] for name in others if any(row.get(name) for row in log)}


def _column(log: Sequence[Mapping[str, float]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # A resumed run logs some rounds twice, and the later row counts.
    rows = {row.get("round", index): row[name] for index, row in enumerate(log) if name in row}
    table = np.array(sorted(rows.items(), key=lambda item: item[0]), dtype=np.float64)
    return table[:, 0], table[:, 1]


def _curve(
    axis: Any, x: NDArray[np.float64], y: NDArray[np.float64], label: str, color: str, marker: str = ""
) -> None:
    """Draws the values; many values are pale under the median of their blocks."""
    window = len(x) // 50
    if window < 4:
        marker = marker if len(x) > 1 else "o"  # a line needs two points
        axis.plot(x, y, color=color, linewidth=1.6, label=label, marker=marker, markersize=4)
        return
    axis.plot(x, y, color=color, linewidth=0.5, alpha=0.3)
    blocks = len(x) // window
    middle = [
        np.median(part.reshape(blocks, window), axis=1)
        for part in (x[: blocks * window], y[: blocks * window])
    ]
    axis.plot(*middle, color=color, linewidth=1.8, label=label)


def _bars(rate: Rate) -> list[list[float]]:
    return [[max(0.0, rate.value - rate.low)], [max(0.0, rate.high - rate.value)]]


def _label_points(axis: Any, points: Sequence[tuple[str, Rate, Rate]]) -> None:
    """Puts each name at the nearest free place around its point."""
    places = [axis.transData.transform((asr.value, accuracy.value)) for _, accuracy, asr in points]
    taken = [_reach(axis, accuracy, asr) for _, accuracy, asr in points]
    frame = axis.get_window_extent()
    for index, (name, accuracy, asr) in enumerate(points):
        style = {"color": BLACK, "fontsize": 9, "fontweight": "bold"}
        line = {"arrowstyle": "-", "color": _SERIES[index % len(_SERIES)], "linewidth": 1}
        size = _text_size(axis, _short(name), style)
        boxes = list(_candidates(places[index], size))
        box = min(boxes, key=lambda box: _cost(box, taken, frame))
        taken.append(box)
        axis.annotate(
            _short(name),
            (asr.value, accuracy.value),
            xytext=((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2),
            textcoords="figure pixels",
            ha="center",
            va="center",
            parse_math=False,
            arrowprops=line | {"shrinkA": 0, "shrinkB": 5},
            **style,
        )


def _reach(axis: Any, accuracy: Rate, asr: Rate) -> Bbox:
    """Returns the box of a marker with its interval bars, in figure pixels."""
    corners = axis.transData.transform([(asr.low, accuracy.low), (asr.high, accuracy.high)])
    (left, bottom), (right, top) = corners
    center = axis.transData.transform((asr.value, accuracy.value))
    marker = 6 * _DPI / 72
    return Bbox(
        [
            np.minimum((left, bottom), center - marker),
            np.maximum((right, top), center + marker),
        ]
    )


def _text_size(axis: Any, text: str, style: Mapping[str, Any]) -> tuple[float, float]:
    probe = axis.text(0, 0, text, parse_math=False, **style)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _candidates(place: NDArray[np.float64], size: tuple[float, float]) -> Iterator[Bbox]:
    """Yields boxes of this size around a place, the nearest first."""
    width, height = size
    for distance in (10, 18, 30, 44, 60, 80, 105):
        for x, y in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            reach = distance * _DPI / 72
            center_x = place[0] + x * (reach + width / 2)
            center_y = place[1] + y * (reach + height / 2)
            yield Bbox.from_bounds(center_x - width / 2, center_y - height / 2, width, height)


def _cost(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Returns the area that is not free; of equal areas ``min`` keeps the first box, which is the nearest."""
    covered = sum(_area(Bbox.intersection(box.padded(3), other)) for other in taken)
    return covered + _area(box) - _area(Bbox.intersection(box, frame))


def _area(box: Bbox | None) -> float:
    return float(box.width * box.height) if box is not None else 0.0


def _tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)


def _words(name: str) -> str:
    """Returns a figure of the log in words, such as "ASR badnet_sq to 0"; a trigger keeps its name."""
    attack = _ATTACK.fullmatch(name)
    return "ASR {} to {}".format(*attack.groups()) if attack else name.replace("_", " ")


def _short(text: str, longest: int = _LONGEST_NAME) -> str:
    # Label names come from strangers' files, so only printable characters on one line are kept.
    shown = "".join(char if char.isprintable() else " " for char in text).strip()
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _save(figure: Figure, path: str | Path) -> None:
    # Without a version in the file the same numbers give the same bytes.
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
