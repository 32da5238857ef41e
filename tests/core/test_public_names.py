"""The public names of the package: one table, in ``abd_hub/__init__.pyi``."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import abd_hub

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_where_the_table_says():
    assert len(abd_hub.__all__) >= 70
    for name in abd_hub.__all__:
        found = getattr(abd_hub, name)
        assert getattr(found, "__module__", abd_hub._MODULES[name]) == abd_hub._MODULES[name], name


def test_the_table_makes_every_name_public_to_type_checkers():
    tree = ast.parse((ROOT / "abd_hub" / "__init__.pyi").read_text())
    aliases = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases)
    assert sorted(alias.name for alias in aliases) == abd_hub.__all__


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = abd_hub.nothing_of_ours


def test_the_table_is_in_the_wheel(tmp_path):
    source = tmp_path / "source"
    (source / "app" / "abd_hub_app").mkdir(parents=True)
    (source / "abd_hub").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "abd_hub/__init__.py", "abd_hub/__init__.pyi"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "abd_hub/__init__.pyi" in zipfile.ZipFile(wheel).namelist()
