"""How costs grow: the parts of a point are measured, and the pictures show the points."""

import json
import sys
from pathlib import Path

import accelerator_state
import matplotlib.image
import pytest
from short_inspection import shorten

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import scale  # noqa: E402
import scale_pictures  # noqa: E402
from round_sizes import Size  # noqa: E402


def test_a_point_is_a_round_an_inspection_and_an_evaluation(monkeypatch):
    shorten(monkeypatch.setattr, monkeypatch.setitem)
    networks = {"teacher": "wrn_10_1", "student": "wrn_10_1"}
    found = scale.of_size(Size(**networks, batch_size=2, student_steps=1, image_size=8, classes=3))
    accelerator_state.forget()
    assert set(found) == {"round_s", "evaluated_per_s", "step_s", "inspection_s", "peak_mb"}
    assert min(found[name] for name in ("round_s", "evaluated_per_s", "inspection_s", "peak_mb")) > 0
    assert found["inspection_s"] > 100 * found["step_s"], "120 steps and what comes before"


@pytest.mark.parametrize("kind", scale.POINTS)
def test_a_picture_has_all_points(kind, tmp_path, monkeypatch):
    for value in scale.VALUES[kind]:
        seconds = dict.fromkeys(scale_pictures.LINES[kind], 0.1 * value)
        (tmp_path / f"{kind}_{value}.json").write_text(json.dumps({"value": value, **seconds}))
    found = scale_pictures.points(tmp_path, kind)
    assert [point["value"] for point in found] == sorted(scale.VALUES[kind])
    monkeypatch.setattr(sys, "argv", ["scale_pictures.py", "--results", str(tmp_path)])
    scale_pictures.main()
    assert [file.stem for file in tmp_path.glob("*.png")] == [kind]
    assert matplotlib.image.imread(tmp_path / f"{kind}.png").shape[:2] == (352, 550)
