"""The lists of tests name files that there are, and the quick ones come from every room."""

from pathlib import Path

from order import LONGEST, QUICK

TESTS = Path(__file__).parents[1]


def test_every_name_is_a_file():
    assert [name for name in (*LONGEST, *QUICK) if not (TESTS / name).is_file()] == []


def test_every_room_has_a_quick_file():
    rooms = {file.parent.name for file in TESTS.glob("*/test_*.py")}
    assert {Path(name).parent.name for name in QUICK} == rooms
