"""The lists of tests name files that there are, and the quick ones come from every room."""

from pathlib import Path

from order import LONGEST, QUICK, TOGETHER

TESTS = Path(__file__).parents[1]


def test_every_name_is_a_file():
    together = [name for files in TOGETHER for name in files]
    assert [name for name in (*LONGEST, *QUICK, *together) if not (TESTS / name).is_file()] == []


def test_every_room_has_a_quick_file():
    rooms = {file.parent.name for file in TESTS.glob("*/test_*.py")}
    assert {Path(name).parent.name for name in QUICK} == rooms


def test_no_two_files_of_tests_share_a_name():
    """pytest imports them by their names alone."""
    names = [file.name for file in TESTS.rglob("test_*.py")]
    assert len(names) == len(set(names))
