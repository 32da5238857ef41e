"""Functions of at most 40 lines and modules of at most 400, but for a short list with reasons."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FUNCTION, LONGEST_MODULE = 40, 400
FUNCTIONS = {
    "abd_hub/core/picture_file.py:decode_picture": "Half of it is the signature and what its arguments mean.",
    "abd_hub/data/images.py:load_images": "Two thirds are the signature and what its arguments mean.",
    "abd_hub/models/classifier.py:create_student": "Two thirds are the signature and what its arguments "
    "mean.",
    "abd_hub/models/classifier.py:load_classifier": "All but one line say what its arguments mean.",
    "abd_hub/runs/purify.py:purify_model": "Two thirds are the signature and what its arguments mean.",
}
MODULES: dict[str, str] = {}
FILES = [file for folder in ("abd_hub", "app", "recipes") for file in sorted((ROOT / folder).rglob("*.py"))]


def functions(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{file.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_are_short(file):
    long = {
        name: lines for name, lines in functions(file) if lines > LONGEST_FUNCTION and name not in FUNCTIONS
    }
    assert not long, "cut it by what it does, or give the reason in FUNCTIONS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_are_short(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE or str(file.relative_to(ROOT)) in MODULES


def test_no_exception_outlives_its_reason():
    long = {name for file in FILES for name, lines in functions(file) if lines > LONGEST_FUNCTION}
    assert set(FUNCTIONS) <= long
