"""The table of who may import whom holds: it is compared with the sources."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "abd_hub"
ROWS = (
    ("core", ""),
    ("learning hub config students", "core"),
    # A defense must not be able to peek: no triggers, no data, no evaluation.
    ("defenses inspection report", "core learning"),
    ("purification", "core learning inspection"),
    # Nor must a method.
    ("synthesis", "core learning hub"),
    ("triggers", "core hub"),
    ("models", "core hub students"),
    ("training", "core config learning models defenses"),
    ("data", "core hub triggers"),
    ("evaluation", "core config learning models training data triggers"),
    ("publish", "core config hub learning models report training"),
    ("sweep", "core config evaluation report training"),
    (
        "runs",
        "core config data evaluation inspection learning models publish purification report synthesis "
        "training triggers",
    ),
    ("commands", "core config evaluation models publish runs sweep"),
)
"""Rooms and the rooms that they may import, in the order of the floors: none imports from above."""
MOST_ROWS = 16
"""More nobody keeps in the head."""
TABLE = {room: set(allowed.split()) for rooms, allowed in ROWS for room in rooms.split()}
TOP = {"__init__", "__main__", "cli", "child"}
"""The modules outside of the rooms, which may import every room."""
MOST_MODULES = 6
"""Directly in the package."""


def unit(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "abd_hub":
            found |= {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("abd_hub."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("abd_hub.")}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_table(file):
    home = unit(file)
    if home not in TOP:
        assert imported(file) <= TABLE[home] | {home}


def test_every_rule_has_a_room():
    assert set(TABLE) | TOP == {unit(file) for file in PACKAGE.rglob("*.py")}


def test_no_room_imports_from_above():
    below = set()
    for rooms, allowed in ROWS:
        assert set(allowed.split()) <= below, rooms
        below.update(rooms.split())
    assert len(ROWS) <= MOST_ROWS


def test_few_modules_lie_outside_of_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_MODULES


def test_no_plug_in_reaches_another_kind_through_the_registry():
    for folder in ("defenses", "inspection", "purification", "synthesis"):
        for file in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "abd_hub.core.registry":
                    assert {alias.name for alias in node.names} == {"register"}, file
                if isinstance(node, ast.ImportFrom) and node.module == "abd_hub.core":
                    assert "registry" not in {alias.name for alias in node.names}, file


def test_devices_come_from_accelerate():
    for file in PACKAGE.rglob("*.py"):
        assert "cuda" not in file.read_text(encoding="utf-8").lower(), file


@pytest.mark.parametrize("folder", ["recipes", "app"])
def test_recipes_and_app_use_the_public_names_only(folder):
    for file in (PACKAGE.parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "abd_hub":
                assert node.module in ("abd_hub", "abd_hub.students"), (file, node.module)
