"""The visitors' checks find what must not be, and their figures and picture show what happened."""

import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import visitor_summary  # noqa: E402
import visitors  # noqa: E402
from visitor import Act  # noqa: E402
from visitor_checks import (  # noqa: E402
    Watch,
    as_png,
    as_shown,
    holding,
    wrong_growth,
    wrong_pictures,
    wrong_words,
)
from visitor_table import visitors_table  # noqa: E402

OWN, OTHER = "visitor1x0123456789abcdef", "visitor12x0123456789abcdef"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f'data: {{"path": "/tmp/{OWN}.png"}}', ""),
        (f'data: {{"path": "/tmp/{OTHER}.png"}}', "visitor 1 sees a mark of visitor 12"),
        (f"wrong token hf_{OWN}", "visitor 1 sees what nobody may see"),
        (f"hf_{OTHER}", "visitor 1 sees a mark of visitor 12"),
        (f"/tmp/abd-hub-app-x/run-{'0f' * 16}/student.zip", "visitor 1 sees the run of visitor 3"),
        (f"/tmp/abd-hub-app-x/run-{'f0' * 16}/student.zip", ""),
        ("Traceback (most recent call last)", "visitor 1 sees what nobody may see"),
        ("hf_rightstoread", "visitor 1 sees a secret of the server's owner"),
    ],
)
def test_the_watch_finds_what_belongs_to_others(answer, found):
    watch = Watch(["hf_rightstoread"])
    watch.see(3, f"/tmp/abd-hub-app-x/run-{'0f' * 16}/student.zip".encode())
    watch.see(1, answer.encode())
    assert [one.startswith(found) for one in watch.found][:1] == ([True] if found else [])


def test_the_watch_finds_anothers_inspection():
    watch, reports = Watch(), [{"statistics": {"l1": [1.0, seed]}} for seed in (2.0, 3.0)]
    for visitor, report in enumerate(reports):
        watch.report(visitor, visitor, report)
        watch.report(visitor, visitor, report)
    assert watch.found == []
    watch.report(1, 5, reports[0])
    assert watch.found == ["visitor 1 has the inspection of visitor 0"]


def test_a_picture_is_known_to_the_pixel():
    own = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    assert np.array_equal(as_shown(as_png(own.repeat(32, 0).repeat(32, 1)), 8), own)
    triggered, other = own.copy(), own.copy()
    triggered[-2:, -2:] = 255
    other[0, 0, 0] ^= 1
    assert wrong_pictures(own, own, triggered) == ""
    assert "clean picture" in wrong_pictures(own, other, triggered)
    assert "with the trigger" in wrong_pictures(own, own, other)


def test_a_refusal_is_one_line_without_a_path():
    assert wrong_words("run: 4 runs are in line already; come back in a few minutes") == ""
    assert "not one line" in wrong_words("Traceback\n  File")
    assert "a path of the server" in wrong_words("/tmp/abd-hub-app-x/run-0/request.yaml is missing")


def samples_of(slope):
    """Ten minutes, in whose last third the memory grows by so many MB a minute."""
    grown = [max(0, second - 400) / 60 * slope for second in range(600)]
    return [
        {"t": second, "server_mb": 500 + more, "children_mb": 300.0, "threads": 40, "files": 60}
        for second, more in enumerate(grown)
    ]


def test_memory_may_not_grow():
    assert wrong_growth(samples_of(4), 5) == ""
    assert wrong_growth(samples_of(6), 5) == "the server's memory grows by 6.0 MB a minute in the last third"


def test_a_token_in_a_file_is_found(tmp_path):
    files = [tmp_path / "log", tmp_path / "gone"]
    files[0].write_bytes(b"\0 hf_visitor1x\0")
    assert holding(files, "hf_visitor") == [str(files[0])] and holding(files, "hf_other") == []


def test_a_killed_run_is_told():
    acts = [
        Act(0, "distill", 1.0, 9.0, outcome, run=run)
        for run, outcome in enumerate(["killed", "left", "well"])
    ]
    kills = [{"t": 1.0, "run": run} for run in (0, 1, 2, 9)]
    assert visitors.wrong_kills(kills, acts) == ["run 2 was killed, and ended well"]


def test_figures_table_and_picture(tmp_path):
    acts = [Act(n, "try", 30.0 * n, 0.1 * n) for n in range(1, 11)]
    acts += [Act(0, "try", 5.0, 9.0, "full"), Act(0, "distill", 5.0, 60.0, "killed", run=1)]
    options = {"visitors": 20, "minutes": 10, "pause": 2, "kill_share": 0.4, "seed": 0}
    facts = visitor_summary.summary(options, acts, [{"t": 1.0, "run": 1}], samples_of(3), ["a", "a"])
    tries = facts["acts"][0]
    assert (tries["count"], tries["full"], tries["p50_s"], tries["max_s"]) == (11, 1, 0.55, 1.0)
    assert (facts["kills"], facts["kills told"], facts["full lines"], facts["violations"]) == (1, 1, 1, ["a"])
    assert facts["memory"]["growth_mb_a_minute"] == pytest.approx(3, abs=0.1)
    assert facts["memory"]["end_server_mb"] == pytest.approx(510, abs=1)
    shown = visitors_table(facts)
    assert "| try | 11 | 10 |" in shown and "Violations: 1" in shown
    visitor_summary.draw(facts, acts, samples_of(3), tmp_path / "picture.png")
    assert matplotlib.image.imread(tmp_path / "picture.png").shape[:2] == (594, 770)
