"""Pictures as PNG files: samples, curves, verdicts, accuracy against ASR, contact sheets.

Colours are Okabe and Ito's, which people with colour blindness can tell apart; nothing is told by colour
alone. Figures are made without pyplot: its global state leaks memory and is not for threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from abd_hub.core.contracts import Divergence
from abd_hub.core.records import Rate

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#000000", "#666666"
_SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = "osD^vPX"
_GAP = 4
_FRAME = 192
"""Grey between images, so that neither a white nor a black edge runs into it."""
_SMALL_SIDE = 128
MARK_FRAME = 8
"""Width of the frame of ``mark_image`` in pixels."""
_MARKED_SIDE, _MARK_BAND = 96, 28
_BINS = 40
_DPI = 150
_LONGEST_NAME = 40
_RATES = "accuracy and ASR during training"
_NAME_SIZE, _NOTE_SIZE, _MARGIN = 22, 17, 16
"""Of the text on a contact sheet and the white around its parts, in pixels."""


def save_samples(pixels: Any, path: str | Path, columns: int = 8) -> None:
    """A grid of images; a pixel becomes a square of pixels, at least 4x4 where the image is 32 or smaller.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        path: the PNG file to write.
        columns: images in a row.

    Raises:
        ValueError: there is no image.
    """
    images = _zoomed(pixels)
    if not len(images):
        raise ValueError("pixels: holds no image")
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    grid = np.full(shape, _FRAME, dtype=np.uint8)
    for index, image in enumerate(images):
        top = _GAP + index // columns * (height + _GAP)
        left = _GAP + index % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = image
    Image.fromarray(grid).save(path, format="PNG")


def save_mosaic(pixels: Any, path: str | Path, columns: int) -> None:
    """Images side by side without gaps and without being enlarged, row by row; what is left over is grey.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        path: the PNG file to write.
        columns: images in a row.
    """
    images = _levels(pixels)
    count, height, width, _ = images.shape
    sheet = np.full((math.ceil(count / columns) * height, columns * width, 3), _FRAME, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = image
    Image.fromarray(sheet).save(path, format="PNG", optimize=True)


def mark_image(picture: Image.Image, suspicious: bool, note: str = "") -> Image.Image:
    """An image enlarged, each pixel a square, in a frame; a suspicious one has a sign and another frame.

    Args:
        picture: RGB.
        suspicious: draws a frame of orange and black, and a warning sign below the image.
        note: a few words below the image.

    Returns:
        The image's pixels begin ``MARK_FRAME`` from the top and the left.
    """
    zoom = max(1, _MARKED_SIDE // max(picture.size))
    width, height = picture.width * zoom, picture.height * zoom
    sheet = Image.new("RGB", (width + 2 * MARK_FRAME, height + 2 * MARK_FRAME + _MARK_BAND), "white")
    draw = ImageDraw.Draw(sheet)
    right, bottom = width + 2 * MARK_FRAME - 1, height + 2 * MARK_FRAME - 1
    draw.rectangle((0, 0, right, bottom), fill=VERMILION if suspicious else (_FRAME,) * 3)
    if suspicious:
        draw.rectangle((0, 0, right, bottom), outline=BLACK, width=2)
        draw.rectangle(
            (MARK_FRAME - 2, MARK_FRAME - 2, right - MARK_FRAME + 2, bottom - MARK_FRAME + 2), fill="white"
        )
    sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (MARK_FRAME, MARK_FRAME))
    middle = bottom + 1 + _MARK_BAND / 2
    left = MARK_FRAME
    if suspicious:
        corners = [(left, middle + 9), (left + 22, middle + 9), (left + 11, middle - 10)]
        draw.polygon(corners, fill=VERMILION, outline=BLACK)
        draw.text((left + 11, middle + 2), "!", fill="white", font=_font(14), anchor="mm")
        left += 28
    draw.text((left, middle), note, fill=BLACK, font=_font(_NOTE_SIZE), anchor="lm")
    return sheet


def save_marked(
    pixels: Any, suspicious: Sequence[bool], kl: Sequence[float], path: str | Path, columns: int = 8
) -> None:
    """A grid of ``mark_image`` with the divergence below each image.

    Args:
        pixels: (N, C, H, W) float with C 1 or 3; values outside [0, 1] are clipped.
        suspicious: N.
        kl: N divergences.
        path: the PNG file to write.
        columns: images in a row.
    """
    marked = [
        mark_image(Image.fromarray(image), bad, f"{value:.2g}")
        for image, bad, value in zip(_levels(pixels), suspicious, kl, strict=True)
    ]
    width, height = (side + _GAP for side in marked[0].size)
    columns = min(columns, len(marked))
    sheet = Image.new(
        "RGB", (columns * width + _GAP, math.ceil(len(marked) / columns) * height + _GAP), "white"
    )
    for index, image in enumerate(marked):
        sheet.paste(image, (_GAP + index % columns * width, _GAP + index // columns * height))
    sheet.save(path, format="PNG", optimize=True)


def save_divergence(found: Divergence, path: str | Path) -> None:
    """The histogram of a divergence: suspicious images, the others, and how many lie beyond the threshold.

    Args:
        found: at least one image.
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
    names = (
        f"suspicious: the copies give the teacher's class ({int(suspicious.sum())})",
        f"the others ({int((~suspicious).sum())})",
    )
    style: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.5}
    axis.bar(edges[:-1], parts[0], np.diff(edges), color=VERMILION, hatch="///", label=names[0], **style)
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
    """Round values from 10**low to 10**high and how they are written: at most about a dozen."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in ((1, 2, 5) if high - low < 4 else (1,))]
    shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
    return shown, [f"{tick:g}" for tick in shown]


def save_pattern(pattern: Any, path: str | Path) -> None:
    """A signed pattern: grey is 0, white its largest absolute value, black the negative; each pixel a square.

    Args:
        pattern: (C, H, W) with C 1 or 3.
        path: the PNG file to write.
    """
    values = _array(pattern)[None]
    largest = float(np.abs(values).max()) or 1.0
    (image,) = _zoomed(0.5 + values / (2 * largest))
    Image.fromarray(image).save(path, format="PNG", optimize=True)


def save_curves(log: Sequence[Mapping[str, float]], path: str | Path, unit: str = "pseudo-batch") -> None:
    """Every logged figure over the rounds.

    Accuracy and attack success rates share the first panel, which runs from 0 to 1; all that ends in
    ``_loss`` shares the next.

    Args:
        log: rows with ``round`` and figures; a row need not hold every figure.
        path: the PNG file to write.
        unit: what ``round`` counts.

    Raises:
        ValueError: the log holds no figure.
    """
    panels = _panels(log)
    if not panels:
        raise ValueError("log: holds no figure to draw")
    figure = Figure(figsize=(7.5, 0.6 + 2.1 * len(panels)), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name, colour, marker in zip(names, cycle(_SERIES), cycle(_MARKERS), strict=False):
            # Rates are few, and cross: told apart by markers as well.
            _curve(axis, *_column(log, name), _words(name), colour, marker if title == _RATES else "")
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        if len(names) > 1:
            # Above the curves: there is no corner of a panel that every curve leaves free.
            axis.legend(
                fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(names)
            )
        if title == _RATES:
            axis.set_ylim(-0.03, 1.03)
        _tidy(axis)
    axes[-1].set_xlabel(unit)
    _save(figure, path)


def save_verdicts(
    clean: Any,
    triggered: Any,
    rows: Mapping[str, tuple[list[str], list[str]]],
    true_labels: Sequence[str],
    path: str | Path,
) -> None:
    """Clean images above the same images triggered, and under each what every model says.

    A verdict counts as the trigger's doing when the model was right about the clean image and is wrong
    about the triggered one: a filled box with a cross. Any other mistake is set in grey brackets.

    Args:
        clean: (N, C, H, W) float in [0, 1].
        triggered: the same images with the trigger.
        rows: model name to (verdicts on clean, verdicts on triggered), N label names each.
        true_labels: N label names.
        path: the PNG file to write.

    Raises:
        ValueError: the lengths do not agree.
    """
    count = len(true_labels)
    pictures = (_zoomed(clean), _zoomed(triggered))
    lengths = [len(images) for images in pictures] + [len(said) for pair in rows.values() for said in pair]
    if not count or any(length != count for length in lengths):
        raise ValueError(f"clean, triggered and every verdict list must hold {count or 'some'} entries")
    board = _Board(count, [_short(name) for name in rows])
    board.heading([_short(label, 14) for label in true_labels])
    for part, title in enumerate(("clean", "with trigger")):
        board.images(pictures[part], title)
        for name, pair in rows.items():
            kinds = [
                _kind(part, true, before, now)
                for true, before, now in zip(true_labels, pair[0], pair[part], strict=True)
            ]
            board.verdicts(_short(name), [_short(label, 14) for label in pair[part]], kinds)
        board.top += board.BREAK
    board.legend()
    _save(board.figure, path)


def save_accuracy_asr(points: Sequence[tuple[str, Rate, Rate]], path: str | Path) -> None:
    """Accuracy over attack success rate, with intervals; the top left corner is where to be.

    Args:
        points: (name, accuracy, attack success rate).
        path: the PNG file to write.
    """
    save_accuracy_asr_panels([("", points)], path)


def save_accuracy_asr_panels(
    panels: Sequence[tuple[str, Sequence[tuple[str, Rate, Rate]]]], path: str | Path
) -> None:
    """``save_accuracy_asr`` for several attacks, up to three panels side by side.

    Args:
        panels: (title, points) of each; a model keeps its colour and marker by its place.
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
    # The layout is settled now; a label must not change it again.
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
            # Shifted after every turn: no two of 49 points have both colour and marker in common.
            fmt=_MARKERS[(index + index // len(_SERIES)) % len(_MARKERS)],
            color=_SERIES[index % len(_SERIES)],
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.5,
            capsize=3,
        )
    _tidy(axis)


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet."""

    name: str
    """What the row shows."""
    note: str = ""
    """A few words under the name."""
    blocks: tuple[Any, ...] = ()
    """Groups of images side by side, each (N, C, H, W) float in [0, 1]; all of one size."""


def save_contact_sheet(rows: Sequence[SheetRow], titles: Sequence[str], path: str | Path) -> None:
    """A table of images: names on the left, and under each title one group of images a row.

    A pixel of an image becomes a square of pixels; none is smoothed. A row may leave groups empty.

    Args:
        rows: from top to bottom; the first one holds images.
        titles: of the groups, from left to right.
        path: the PNG file to write.

    Raises:
        ValueError: the first row holds no image.
    """
    if not rows or not rows[0].blocks or not len(rows[0].blocks[0]):
        raise ValueError("rows: the first one holds no image")
    count, height, width, _ = _zoomed(rows[0].blocks[0]).shape
    font, small = _font(_NAME_SIZE), _font(_NOTE_SIZE)
    text = [(font, row.name) for row in rows] + [(small, row.note) for row in rows]
    left = 2 * _MARGIN + math.ceil(max(face.getlength(words) for face, words in text))
    group = _MARGIN + math.ceil(max(count * (width + _GAP), *(font.getlength(title) for title in titles)))
    top, line = 3 * _MARGIN, height + _GAP
    sheet = Image.new("RGB", (left + group * len(titles), top + line * len(rows) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, title in enumerate(titles):
        draw.text((left + index * group, top / 2), title, fill=BLACK, font=font, anchor="lm")
    for number, row in enumerate(rows):
        y = top + number * line
        draw.text((_MARGIN, y + height / 2), row.name, fill=BLACK, font=font, anchor="ls")
        draw.text((_MARGIN, y + height / 2 + _NOTE_SIZE / 2), row.note, fill=GREY, font=small, anchor="lt")
        for block, images in enumerate(row.blocks):
            for column, image in enumerate(_zoomed(images)):
                x = left + block * group + column * (width + _GAP)
                sheet.paste(Image.fromarray(image), (x, y))
                # A white trigger at the edge must not melt into the page.
                draw.rectangle((x - 1, y - 1, x + width, y + height), outline=GREY)
    sheet.save(path, format="PNG")


def _font(size: int) -> Any:
    # matplotlib brings it along, so the sheet looks the same on every machine.
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


class _Board:
    """A figure measured in inches from its top, filled row by row."""

    CELL, LINE, MARGIN, BREAK = 1.15, 0.24, 0.1, 0.14

    def __init__(self, count: int, names: Sequence[str]) -> None:
        longest = max((len(name) for name in names), default=0)
        self.left = max(1.3, 0.085 * longest + 0.2)
        self.width = self.left + count * self.CELL + self.MARGIN
        part = self.CELL + self.LINE * len(names) + self.BREAK
        self.height = self.MARGIN + self.LINE + 2 * part + self.LINE + self.MARGIN
        self.figure = Figure(figsize=(self.width, self.height), dpi=_DPI, facecolor="white")
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.axis.axis("off")
        self.top = self.MARGIN

    def heading(self, labels: Sequence[str]) -> None:
        self._name("true label")
        for index, label in enumerate(labels):
            self._text(self._middle(index), label, fontweight="bold")
        self.top += self.LINE

    def images(self, images: NDArray[np.uint8], title: str) -> None:
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
            self.axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=GREY, linewidth=0.8))
        self.axis.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.top += self.CELL - 0.05

    def verdicts(self, name: str, labels: Sequence[str], kinds: Sequence[str]) -> None:
        self._name(name)
        for index, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
            x = self._middle(index)
            if kind == "backdoor":
                self._box(x, self.CELL - 0.1)
                self._text(x, f"✗ {label}", color="white", fontweight="bold")
            elif kind == "mistake":
                self._text(x, f"({label})", color=GREY, style="italic")
            else:
                self._text(x, label, color=BLACK)
        self.top += self.LINE

    def legend(self) -> None:
        self._box(self.left + 0.16, 0.24)
        self._text(self.left + 0.16, "✗", color="white", fontweight="bold")
        note = "right when clean, wrong with the trigger      (grey) any other mistake"
        self.axis.text(
            self.left + 0.36, self.top + self.LINE / 2, note, ha="left", va="center", fontsize=8, color=GREY
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


def _kind(part: int, true: str, before: str, now: str) -> str:
    if now == true:
        return "right"
    return "backdoor" if part == 1 and before == true else "mistake"


def _array(pixels: Any) -> NDArray[np.float32]:
    # Tensors on an accelerator or in half precision as well as arrays, without importing torch here.
    if hasattr(pixels, "detach"):
        pixels = pixels.detach().float().cpu().numpy()
    return np.asarray(pixels, dtype=np.float32)


def _zoomed(pixels: Any) -> NDArray[np.uint8]:
    """(N, C, H, W) floats to (N, H * zoom, W * zoom, 3) bytes; no value is made up in between."""
    levels = _levels(pixels)
    zoom = max(1, _SMALL_SIDE // max(1, *levels.shape[1:3]))
    return levels.repeat(zoom, axis=1).repeat(zoom, axis=2)


def _levels(pixels: Any) -> NDArray[np.uint8]:
    """(N, C, H, W) floats to (N, H, W, 3) bytes."""
    array = _array(pixels)
    if array.ndim != 4 or array.shape[1] not in {1, 3}:
        raise ValueError(f"pixels: shape {array.shape} is not (N, 1 or 3, H, W)")
    array = np.broadcast_to(array, (len(array), 3, *array.shape[2:])).transpose(0, 2, 3, 1)
    finite = np.nan_to_num(array, nan=0.0)
    return np.rint(np.clip(finite, 0, 1) * 255).astype(np.uint8)


def _panels(log: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    names = [name for name in dict.fromkeys(key for row in log for key in row) if name != "round"]
    rates = [name for name in names if name == "accuracy" or name.startswith("asr_")]
    losses = [name for name in names if name.endswith("_loss") or name == "loss"]
    panels = {title: part for title, part in ((_RATES, rates), ("loss", losses)) if part}
    return panels | {_words(name): [name] for name in names if name not in rates + losses}


def _column(log: Sequence[Mapping[str, float]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # A run that was killed and resumed logs some rounds twice: the later row is the one that counts.
    rows = {row.get("round", index): row[name] for index, row in enumerate(log) if name in row}
    table = np.array(sorted(rows.items(), key=lambda item: item[0]), dtype=np.float64)
    return table[:, 0], table[:, 1]


def _curve(
    axis: Any, x: NDArray[np.float64], y: NDArray[np.float64], label: str, colour: str, marker: str = ""
) -> None:
    """The figures themselves; where they are many, pale under their running median."""
    window = len(x) // 50
    if window < 4:
        axis.plot(x, y, color=colour, linewidth=1.6, label=label, marker=marker, markersize=4)
        return
    axis.plot(x, y, color=colour, linewidth=0.5, alpha=0.3)
    blocks = len(x) // window
    middle = [
        np.median(part.reshape(blocks, window), axis=1)
        for part in (x[: blocks * window], y[: blocks * window])
    ]
    axis.plot(*middle, color=colour, linewidth=1.8, label=label)


def _bars(rate: Rate) -> list[list[float]]:
    return [[max(0.0, rate.value - rate.low)], [max(0.0, rate.high - rate.value)]]


def _label_points(axis: Any, points: Sequence[tuple[str, Rate, Rate]]) -> None:
    """Puts each name at the nearest place round its point that is still free."""
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
    """The marker with its interval bars, in figure pixels."""
    corners = axis.transData.transform([(asr.low, accuracy.low), (asr.high, accuracy.high)])
    (left, bottom), (right, top) = corners
    centre = axis.transData.transform((asr.value, accuracy.value))
    marker = 6 * _DPI / 72
    return Bbox(
        [
            np.minimum((left, bottom), centre - marker),
            np.maximum((right, top), centre + marker),
        ]
    )


def _text_size(axis: Any, text: str, style: Mapping[str, Any]) -> tuple[float, float]:
    probe = axis.text(0, 0, text, parse_math=False, **style)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _candidates(place: NDArray[np.float64], size: tuple[float, float]) -> Iterator[Bbox]:
    """Boxes of this size round a place, the nearest first."""
    width, height = size
    for distance in (10, 18, 30, 44, 60, 80, 105):
        for x, y in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            reach = distance * _DPI / 72
            centre_x = place[0] + x * (reach + width / 2)
            centre_y = place[1] + y * (reach + height / 2)
            yield Bbox.from_bounds(centre_x - width / 2, centre_y - height / 2, width, height)


def _cost(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Area that is not free; ``min`` keeps the first of equals, the nearest."""
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
    return name.replace("_", " ")


def _short(text: str, longest: int = _LONGEST_NAME) -> str:
    # Label names come from strangers' files: one line, only what a font can show.
    shown = "".join(char if char.isprintable() else " " for char in text).strip()
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _save(figure: Figure, path: str | Path) -> None:
    # No version in the file: the same numbers give the same bytes.
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
