"""Pictures: exact pixels where pixels are shown, and marks where something is claimed."""

import threading

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from abd_hub.core.evidence import Divergence
from abd_hub.core.records import Rate
from abd_hub.report import figures as pictures
from abd_hub.report import grids
from abd_hub.runs.finishing import FEWEST_POINTS, write_curves


def load(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def color(code):
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)])


def painted(image, code):
    return int((image == color(code)).all(axis=2).sum())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "zoom"), [(8, 16), (28, 4), (32, 4), (64, 2), (200, 1)])
def test_samples_are_the_pixels_themselves(tmp_path, channels, side, zoom):
    pixels = torch.rand(5, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    grids.save_samples(pixels, tmp_path / "x.png", columns=3)
    image = load(tmp_path / "x.png")
    cell = side * zoom + 4
    assert image.shape == (2 * cell + 4, 3 * cell + 4, 3)
    for index, sample in enumerate(pixels):
        top, left = 4 + index // 3 * cell, 4 + index % 3 * cell
        shown = image[top : top + side * zoom, left : left + side * zoom]
        expected = (
            (sample.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
        )
        assert (shown == expected.repeat(zoom, axis=0).repeat(zoom, axis=1)).all()
    frame = image.copy()
    frame[cell + 4 :, 2 * cell + 4 :] = 192
    assert (frame[:4] == 192).all()
    assert (image[cell + 4 :, 2 * cell + 4 :] == 192).all()


def test_samples_take_half_precision_with_gradients_and_nan(tmp_path):
    pixels = torch.full((1, 3, 8, 8), 0.5, dtype=torch.bfloat16, requires_grad=True)
    grids.save_samples(pixels, tmp_path / "x.png")
    assert (load(tmp_path / "x.png")[4:-4, 4:-4] == 128).all()
    grids.save_samples(np.full((1, 1, 8, 8), np.nan), tmp_path / "x.png")
    assert (load(tmp_path / "x.png")[4:-4, 4:-4] == 0).all()


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (2, 2, 8, 8)])
def test_samples_refuse_what_is_no_batch_of_images(tmp_path, shape):
    with pytest.raises(ValueError, match="pixels"):
        grids.save_samples(torch.zeros(shape), tmp_path / "x.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_holds_every_pixel_once(tmp_path, channels):
    pixels = torch.rand(5, channels, 8, 6, generator=torch.Generator().manual_seed(0))
    grids.save_mosaic(pixels, tmp_path / "x.png", 3)
    image = load(tmp_path / "x.png")
    assert image.shape == (16, 18, 3)
    for index, sample in enumerate(pixels):
        top, left = index // 3 * 8, index % 3 * 6
        expected = (sample * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
        assert (image[top : top + 8, left : left + 6] == expected).all()
    assert (image[8:, 12:] == 192).all()


@pytest.mark.parametrize(("side", "zoom"), [(8, 12), (32, 3), (224, 1)])
def test_a_marked_image_keeps_its_pixels_and_is_told_without_color(side, zoom):
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    marked, plain = (
        np.asarray(grids.mark_image(Image.fromarray(levels), bad, "0.01")) for bad in (True, False)
    )
    assert marked.shape == plain.shape
    frame = grids.MARK_FRAME
    inner = slice(frame, frame + side * zoom)
    for image in (marked, plain):
        assert (image[inner, inner] == levels.repeat(zoom, 0).repeat(zoom, 1)).all()
    gray = [np.asarray(Image.fromarray(image).convert("L"), dtype=int) for image in (marked, plain)]
    outside = np.ones(gray[0].shape, dtype=bool)
    outside[inner, inner] = False
    assert (np.abs(gray[0] - gray[1])[outside] > 40).mean() > 0.3
    assert painted(marked[frame + side * zoom + frame :], grids.VERMILION) > 60, "the sign"
    assert painted(plain, grids.VERMILION) == 0


def test_the_histogram_counts_every_image_and_those_below_the_threshold(tmp_path, monkeypatch):
    kl = (0.0, 1e-3, 0.01, 0.01, 0.5, 2.0)
    found = Divergence(kl, (True, True, True, False, False, False), 0.02, True, 1, True)
    seen, lines = [], []
    bar, axvline = Axes.bar, Axes.axvline

    def spy(axis, x, height, *more, **style):
        seen.append((np.asarray(height), style.get("bottom")))
        return bar(axis, x, height, *more, **style)

    def line(axis, x, **style):
        lines.append((x, style["label"]))
        return axvline(axis, x, **style)

    monkeypatch.setattr(Axes, "bar", spy)
    monkeypatch.setattr(Axes, "axvline", line)
    pictures.save_divergence(found, tmp_path / "x.png")
    assert [int(height.sum()) for height, _ in seen] == [3, 3]
    assert (seen[1][1] == seen[0][0]).all(), "stacked: no bar hides another"
    assert lines == [(pytest.approx(0.02), "threshold of the vaccine check: 4 below, 2 above")]
    assert painted(load(tmp_path / "x.png"), grids.VERMILION) > 100


@pytest.mark.parametrize(("judged", "used"), [(False, True), (True, False), (False, False)])
def test_nothing_warns_without_a_vaccine_that_was_judged_and_used(tmp_path, monkeypatch, judged, used):
    found = Divergence((0.1, 0.2), (True, False), 0.02, judged, 0, used)
    labels = []
    bar = Axes.bar

    def spy(axis, *more, **style):
        labels.append(style["label"])
        return bar(axis, *more, **style)

    monkeypatch.setattr(Axes, "bar", spy)
    pictures.save_divergence(found, tmp_path / "x.png")
    assert not painted(load(tmp_path / "x.png"), grids.VERMILION) and not found.warns
    assert labels[0] == "the copies give the teacher's class (1); no warning without a passed check"


@pytest.mark.parametrize(("kl", "limit"), [((0.0,), 0.0), ((1.0, 1.0), 1.0), ((0.0, 1e6), 1e-300)])
def test_any_divergence_can_be_drawn(tmp_path, kl, limit):
    found = Divergence(kl, (True,) * len(kl), limit, False, 0, False)
    pictures.save_divergence(found, tmp_path / "x.png")
    assert load(tmp_path / "x.png").shape[1] > 500


def test_a_pattern_is_gray_where_it_is_zero(tmp_path):
    pattern = torch.zeros(1, 8, 8)
    pattern[0, 0, 0], pattern[0, 0, 1] = -0.02, 0.01
    grids.save_pattern(pattern, tmp_path / "x.png")
    image = load(tmp_path / "x.png")
    assert image.shape == (128, 128, 3)
    assert image[::16, ::16, 0][0, :3].tolist() == [0, 191, 128]
    grids.save_pattern(pattern * 0, tmp_path / "x.png")
    assert (load(tmp_path / "x.png") == 128).all()


def test_a_curve_is_named_in_words_and_a_trigger_by_its_name():
    names = ["asr_badnet_sq_0", "asr_trojan_3x3_1_2", "student_loss", "asr_other"]
    words = ["ASR badnet_sq to 0", "ASR trojan_3x3 to 1_2", "student loss", "asr other"]
    assert [pictures._words(name) for name in names] == words


@pytest.mark.parametrize("count", [1, 5, 700])
def test_curves_have_a_panel_a_group(tmp_path, count):
    rows = [{"round": i, "student_loss": 1 / (1 + i), "generator_loss": -1 / (1 + i)} for i in range(count)]
    pictures.save_curves(rows, tmp_path / "one.png")
    pictures.save_curves(
        [row | {"learning_rate": 0.1, "gaps": float("nan")} for row in rows], tmp_path / "three.png"
    )
    one, three = load(tmp_path / "one.png"), load(tmp_path / "three.png")
    assert painted(one, grids.BLUE) > 20
    assert painted(one, grids.VERMILION) > 20
    assert three.shape[0] - one.shape[0] == round(2 * 2.1 * 150)


def test_what_is_zero_throughout_has_no_panel(tmp_path):
    rows = [{"round": i, "student_loss": 1.0, "penalty": 0.0, "gap": float(i)} for i in range(5)]
    assert list(pictures._panels(rows)) == ["loss", "gap"]
    pictures.save_curves(rows, tmp_path / "x.png")
    assert load(tmp_path / "x.png").shape[0] == round((0.6 + 2 * 2.1) * 150)


def test_a_few_points_are_no_curve(tmp_path):
    rows = [{"round": i, "student_loss": 1.0} for i in range(FEWEST_POINTS)]
    write_curves(tmp_path, rows[1:])
    assert not (tmp_path / "samples" / "curves.png").exists()
    (tmp_path / "samples").mkdir()
    write_curves(tmp_path, rows)
    assert (tmp_path / "samples" / "curves.png").exists()


def test_rates_share_a_panel_from_0_to_1(tmp_path, monkeypatch):
    limits = []
    save = pictures._save
    monkeypatch.setattr(
        pictures,
        "_save",
        lambda figure, path: (save(figure, path), limits.extend(a.get_ylim() for a in figure.axes)),
    )
    rows = [{"round": i, "student_loss": 3.0, "accuracy": 0.2, "asr_blend_0": 0.4} for i in range(3)]
    pictures.save_curves(rows, tmp_path / "x.png")
    assert len(limits) == 2
    assert limits[0] == (-0.03, 1.03) and limits[1] != limits[0]
    image = load(tmp_path / "x.png")
    assert painted(image[: len(image) // 2], grids.VERMILION) > 20


def test_the_later_row_of_a_resumed_run_counts():
    x, y = pictures._column(
        [{"round": 0, "a": 1}, {"round": 1, "a": 2}, {"round": 1, "a": 3}, {"round": 2}], "a"
    )
    assert (x.tolist(), y.tolist()) == ([0, 1], [1, 3])


def test_an_empty_log_is_refused(tmp_path):
    for log in ([], [{"round": 1}]):
        with pytest.raises(ValueError, match="log"):
            pictures.save_curves(log, tmp_path / "x.png")


def verdict_picture(path, triggered_verdicts, true=("a", "b"), clean_verdicts=("a", "b")):
    clean = torch.rand(2, 3, 8, 8)
    rows = {"teacher": (list(clean_verdicts), list(triggered_verdicts)), "student": (list(true), list(true))}
    pictures.save_verdicts(clean, clean, rows, true, "a", path)
    return painted(load(path), grids.VERMILION)


def test_only_hits_of_the_target_are_marked(tmp_path):
    path = tmp_path / "x.png"
    true = ("b", "c")
    none = verdict_picture(path, ("b", "c"), true, true)
    one = verdict_picture(path, ("a", "c"), true, true)
    two = verdict_picture(path, ("a", "a"), true, true)
    assert 0 < none < one < two
    # A mistake that the trigger brings about, towards another class than the target.
    assert verdict_picture(path, ("c", "b"), true, true) == none
    # The target before the trigger came: not its doing.
    assert verdict_picture(path, ("a", "a"), true, ("a", "a")) == none
    assert verdict_picture(path, ("a", "c"), true, ("c", "c")) == one


def test_verdicts_show_sharp_images(tmp_path):
    clean = torch.zeros(1, 3, 2, 2)
    clean[0, 0, 0, 0] = 1
    pictures.save_verdicts(clean, 1 - clean, {"m": (["a"], ["a"])}, ["a"], "b", tmp_path / "x.png")
    image = load(tmp_path / "x.png")
    red, cyan = (int((image == value).all(axis=2).sum()) for value in ([255, 0, 0], [0, 255, 255]))
    assert red > 70**2
    assert abs(red - cyan) < 0.05 * red


def test_strangers_names_are_drawn_as_text(tmp_path):
    names = ["$\\frac{$", "line\nbreak\x00", "x" * 500]
    pixels = torch.rand(3, 1, 8, 8)
    pictures.save_verdicts(pixels, pixels, {"$m$": (names, names)}, names, names[0], tmp_path / "x.png")
    assert load(tmp_path / "x.png").shape[1] < 1000


def test_verdicts_of_other_lengths_are_refused(tmp_path):
    pixels = torch.rand(2, 1, 8, 8)
    for rows, true in [({"m": (["a"], ["a", "b"])}, ["a", "b"]), ({}, ["a"]), ({}, [])]:
        with pytest.raises(ValueError, match="entries"):
            pictures.save_verdicts(pixels, pixels, rows, true, "a", tmp_path / "x.png")


def rate(value):
    return Rate(value, 0, 100, max(0.0, value - 0.05), min(1.0, value + 0.03))


SPREAD = [(0.97, 1.0), (0.86, 0.81), (0.83, 0.12), (0.84, 0.15), (0.95, 0.02)]
CORNERS = [(0, 0), (1, 1), (0, 1), (1, 0), (0.5, 0.5)]
SAME = [(0.97, 0.99)] * 5


@pytest.mark.parametrize("places", [SPREAD, CORNERS, SAME], ids=["spread", "corners", "same"])
def test_labels_of_points_do_not_overlap(tmp_path, monkeypatch, places):
    points = [(f"a longer name {i}", rate(acc), rate(asr)) for i, (acc, asr) in enumerate(places)]
    seen = []
    save = pictures._save

    def spy(figure, path):
        save(figure, path)
        axis = figure.axes[0]
        seen.extend(
            pictures.Bbox.from_extents(super(type(t), t).get_window_extent().extents) for t in axis.texts
        )

    monkeypatch.setattr(pictures, "_save", spy)
    pictures.save_accuracy_asr(points, tmp_path / "x.png")
    image = load(tmp_path / "x.png")
    assert len(seen) == 5
    for index, box in enumerate(seen):
        assert box.x0 >= 0
        assert box.x1 <= image.shape[1]
        assert not any(box.overlaps(other) for other in seen[:index])


def test_a_panel_for_each_attack(tmp_path):
    points = [(f"model {i}", rate(acc), rate(asr)) for i, (acc, asr) in enumerate(SPREAD)]
    pictures.save_accuracy_asr(points, tmp_path / "one.png")
    pictures.save_accuracy_asr_panels([(f"attack {i}", points) for i in range(4)], tmp_path / "four.png")
    one, four = load(tmp_path / "one.png"), load(tmp_path / "four.png")
    assert four.shape == (2 * one.shape[0], 3 * one.shape[1], 3)
    height, width = one.shape[:2]
    for index in range(6):
        top, left = index // 3 * height, index % 3 * width
        panel = four[top : top + height, left : left + width]
        assert (painted(panel, grids.VERMILION) > 20) is (index < 4)
    with pytest.raises(ValueError, match="panels"):
        pictures.save_accuracy_asr_panels([], tmp_path / "none.png")


def test_many_models_differ_in_color_or_marker(tmp_path, monkeypatch):
    points = [(f"model {i}", rate(i / 20), rate(i / 20)) for i in range(20)]
    seen = []
    errorbar = Axes.errorbar

    def spy(axis, *places, **style):
        seen.append((style["color"], style["fmt"]))
        return errorbar(axis, *places, **style)

    monkeypatch.setattr(Axes, "errorbar", spy)
    pictures.save_accuracy_asr(points, tmp_path / "x.png")
    assert len(set(seen)) == 20


def test_the_same_numbers_give_the_same_bytes_in_any_thread(tmp_path):
    points = [(f"model {i}", rate(acc), rate(asr)) for i, (acc, asr) in enumerate(SPREAD)]
    names = [tmp_path / f"{i}.png" for i in range(4)]
    threads = [threading.Thread(target=pictures.save_accuracy_asr, args=(points, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name.read_bytes() for name in names}) == 1


@pytest.mark.parametrize("count", [2, 4, 5])
def test_the_legend_of_many_curves_is_beside_its_title_and_within_the_picture(count):
    """Four names in one row ran over the title and out of the picture."""
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    axis = figure.subplots()
    for index in range(count):
        axis.plot(
            [0, 1],
            [index, index],
            label="ASR trojan_wm to 2" if count == 2 else "agreement patches by chance",
        )
    pictures._caption(axis, "agreement with the teacher", count)
    FigureCanvasAgg(figure).draw()
    (title,) = (
        one for one in axis.get_children() if getattr(one, "get_text", str)().startswith("agreement w")
    )
    legend, words = axis.get_legend().get_window_extent(), title.get_window_extent()
    assert not legend.overlaps(words)
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and words.y1 <= figure.bbox.y1
