"""The lists of tests name files that there are, and the quick ones come from every room."""

from pathlib import Path
from types import SimpleNamespace

from order import LONGEST, QUICK, TOGETHER, WAITING

TESTS = Path(__file__).parents[1]


def test_every_name_is_a_file():
    together = [name for files in TOGETHER for name in files]
    assert [name for name in (*LONGEST, *QUICK, *together, *WAITING) if not (TESTS / name).is_file()] == []


def test_every_room_has_a_quick_file():
    rooms = {file.parent.name for file in TESTS.glob("*/test_*.py")}
    assert {Path(name).parent.name for name in QUICK} == rooms


def test_the_quick_run_imports_the_quick_files_only(request):
    conftest = request.config.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    files = [*TESTS.glob("test_*.py"), *TESTS.glob("*/test_*.py")]
    for marks, imported in (("quick", QUICK), ("", [name(file) for file in files])):
        config = SimpleNamespace(option=SimpleNamespace(markexpr=marks))
        left = [name(file) for file in files if not conftest.pytest_ignore_collect(file, config)]
        assert sorted(left) == sorted(imported)


def name(file):
    return file.relative_to(TESTS).as_posix()


def test_no_two_files_of_tests_share_a_name():
    """pytest imports them by their names alone."""
    names = [file.name for file in TESTS.rglob("test_*.py")]
    assert len(names) == len(set(names))
