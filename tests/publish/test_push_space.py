"""A Space brings the package that its code imports, so that no registry decides what it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pushes import make_space, push, refused

import abd_hub

ROOT = Path(__file__).parents[2]
COMMIT = "c" * 40
NAME = "acme/demo"


def importing(folder, requirements="numpy\n", code="import abd_hub\n"):
    make_space(folder)
    (folder / "app.py").write_text(code)
    (folder / "requirements.txt").write_text(requirements)
    return folder


def sent(server):
    return server.repo(NAME, "space").files


def test_the_space_of_this_project_runs_from_its_own_files(server, worker, tmp_path):
    push(worker, ROOT / "app", name=NAME)
    files = sent(server)
    assert {"README.md", "app.py", "requirements.txt", "abd_hub_app/page.py"} <= set(files)
    assert "abd_hub_app/models/teacher/model.safetensors" in files
    assert not any("__pycache__" in name for name in files)
    home = Path(abd_hub.__file__).parent
    modules = {file for file in home.rglob("*") if file.suffix in (".py", ".pyi", ".jinja")}
    assert {f"abd_hub/{file.relative_to(home)}" for file in modules} <= set(files)
    assert push(worker, ROOT / "app", name=NAME).startswith("nothing to push")

    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    # Files named .pth, such as that of this project's installation, count in site folders only.
    program = """
import abd_hub
from abd_hub.core import record_file, registry
from abd_hub_app.shelf import load_shelf

print(abd_hub.__file__, record_file.environment()["abd-hub"], len(registry.catalog("triggers")))
print(len(load_shelf().models))
"""
    path = os.pathsep.join([str(tmp_path), *(place for place in sys.path if "site-packages" in place)])
    command = [sys.executable, "-S", "-c", program]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{tmp_path}/abd_hub/__init__.py {abd_hub.__version__} ")
    assert done.stdout.split()[-1] == "4" and int(done.stdout.split()[2]) > 10


def test_its_requirements_are_those_of_the_package():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "app" / "requirements.txt").read_text().splitlines()
    assert sorted(line.replace(" ", "") for line in lines) == sorted(wanted)


def test_modules_of_an_earlier_version_do_not_stay(server, worker, tmp_path):
    space = importing(tmp_path / "app")
    push(worker, space, name=NAME)
    repo = server.repo(NAME, "space")
    repo.commit({"abd_hub/triggers/old.py": b"", "notes/abd_hub/old.py": b""})
    push(worker, space, name=NAME)
    assert "abd_hub/triggers/old.py" not in repo.files and "notes/abd_hub/old.py" in repo.files


@pytest.mark.parametrize(
    ("requirements", "code"),
    [
        (f"abd-hub @ git+https://example.org/me/abd-hub@{COMMIT}\n", "import abd_hub\n"),
        (
            f"Abd_Hub[sweep]@git+https://example.org/me/x.git@{COMMIT}  # mine\n",
            "from abd_hub import distill\n",
        ),
        ("numpy\n", "import abd_hub_other\nx = 'import abd_hub'\n"),
    ],
)
def test_a_space_that_does_not_need_the_files(server, worker, tmp_path, requirements, code):
    push(worker, importing(tmp_path / "app", requirements, code), name=NAME)
    assert not any(name.startswith("abd_hub/") for name in sent(server))


def test_a_space_with_its_own_copy(server, worker, tmp_path):
    space = importing(tmp_path / "app")
    (space / "abd_hub").mkdir()
    (space / "abd_hub" / "__init__.py").write_text("x = 1\n")
    push(worker, space, name=NAME)
    assert {name for name in sent(server) if name.startswith("abd_hub/")} == {"abd_hub/__init__.py"}


@pytest.mark.parametrize(
    "line",
    [
        "abd-hub",
        "abd_hub>=0.1",
        "ABD.hub == 0.1.0 ; python_version > '3'",
        "abd-hub[sweep]",
        "abd-hub @ git+https://example.org/me/abd-hub@main",
        "abd-hub @ https://example.org/abd-hub.zip",
    ],
)
def test_a_name_that_anybody_may_register_is_refused(server, worker, tmp_path, line):
    space = importing(tmp_path / "app", f"numpy\n{line}\n")
    said = refused(worker, space, name="acme/refused")
    assert "remove the line" in said and f"names {line.partition('@')[0].strip()!r}" in said
    (space / "requirements.txt").write_text("numpy\n")
    push(worker, space, name=NAME)
    assert "abd_hub/__init__.py" in sent(server), "as the message says"
