"""What libraries and strangers say becomes one line."""

import errno
import sys

import pytest

from abd_hub.core.errors import (
    LONGEST_MESSAGE,
    LONGEST_REASON,
    InputError,
    Interrupted,
    MissingOptions,
    disk_problem,
    near_names,
    one_line,
    quiet_stops,
    reason_of,
    visible,
    visible_line,
)


def test_a_text_stays_whole_on_one_line():
    assert one_line(" a\n\tb\r\n c " + "x" * 999) == "a b c " + "x" * 999


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b"), "a b"),
        (KeyError(), "KeyError"),
        (OSError(" \n"), "OSError"),
        (ValueError("x" * LONGEST_REASON), "x" * LONGEST_REASON),
        (ValueError("x" * (LONGEST_REASON + 1)), "x" * (LONGEST_REASON - 3) + "..."),
    ],
)
def test_a_reason_is_short_and_never_empty(error, said):
    assert reason_of(error) == said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat\n dog", "cat dog"),
        ("a\x1b[31mb\u202ec\ud800", "a\ufffd[31mb\ufffdc\ufffd"),
        ("1234567890", "1234567890"),
        ("12345678901", "123456789…"),
        ("<b>", "<b>"),
    ],
)
def test_a_strangers_text_is_visible_and_cut(text, shown):
    assert visible_line(text, 10) == shown


def test_lines_and_tabs_stay_visible():
    assert visible("a\n\tb\x1b\r\u202e") == "a\n\tb\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("seed: 3 is wrong; use 4", "seed: 3 is wrong; use 4"),
        ("seed: a\n\u2028b\x1b[2J is wrong;\r\n use 4", "seed: a b\ufffd[2J is wrong; use 4"),
        ("seed: \u202e\u200f\ud800; use 4", "seed: \ufffd\ufffd\ufffd; use 4"),
    ],
)
def test_an_error_is_one_visible_line(message, said):
    assert str(InputError(message)) == said


def test_a_long_value_leaves_field_and_remedy_in_the_message():
    whole = str(InputError("seed: " + "x" * (LONGEST_MESSAGE - 20) + " is; use 4"))
    assert len(whole) < LONGEST_MESSAGE and " … " not in whole
    cut = str(InputError("seed: " + "x" * 10**6 + " is wrong; use 4"))
    assert len(cut) == LONGEST_MESSAGE
    assert cut.startswith("seed: xxx") and " … " in cut and cut.endswith("xxx is wrong; use 4")


def test_any_number_of_interruptions_leaves_one_hook(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: seen.append(arguments))
    stops = [Interrupted("stopped after round 3 of 9") for _ in range(3)]
    sys.excepthook(Interrupted, stops[-1], None)
    assert capsys.readouterr().err == "abd-hub: stopped after round 3 of 9; continue with resume=True\n"
    sys.excepthook(ValueError, ValueError("x"), None)
    assert len(seen) == 1 and seen[0][0] is ValueError


def test_ctrl_c_in_a_run_ends_with_one_line_and_any_other_with_its_traceback(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: seen.append(arguments))
    with pytest.raises(KeyboardInterrupt) as stop, quiet_stops():
        raise KeyboardInterrupt
    sys.excepthook(KeyboardInterrupt, stop.value, None)
    assert capsys.readouterr().err == "abd-hub: interrupted\n" and not seen
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(seen) == 1


def test_missing_statistics_come_with_those_of_raw_pixels():
    error = MissingOptions("weights only", {"mean": "[0.5]", "std": "[0.25]"})
    assert str(error).endswith("; mean 0 and std 1 if the model takes raw pixels")
    assert str(error.typed("teacher.")).endswith("; mean 0 and std 1 if the model takes raw pixels")
    assert "raw pixels" not in str(MissingOptions("weights only", {"architecture": "NAME"}))


def test_an_unknown_name_gets_those_near_it_and_never_sixteen():
    known = [f"trigger_{letter}" for letter in "abcdefghijklmnop"]
    assert near_names("trigger_q", known, "abd-hub list triggers").count(",") == 2
    assert near_names("zzz", known, "abd-hub list triggers") == "abd-hub list triggers shows all"
    assert near_names("zzz", known[:2], "abd-hub list") == "did you mean trigger_a, trigger_b?"


def test_a_disk_that_fails_is_named_with_a_remedy():
    full = OSError(errno.ENOSPC, "No space left on device", "runs/log.jsonl")
    assert disk_problem(full).startswith("runs/log.jsonl: No space left on device; free some space")
    foreign = RuntimeError('I/O error: Permission denied (os error 13) at path "/x"')
    assert disk_problem(foreign).startswith("the disk: Permission denied; give write permission")
    assert disk_problem(OSError(errno.ENOENT, "absent")) == disk_problem(KeyError("x")) == ""
