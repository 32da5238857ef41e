"""What libraries and strangers say becomes one line."""

import pytest

from abd_hub.core.errors import LONGEST_REASON, one_line, reason_of, visible, visible_line


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
