"""The Space as a stranger gets it: a fresh environment, its requirements, ``python app.py``, one question."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from app_server import ROOT
from gradio_client import Client, handle_file
from missing import needs_space
from PIL import Image

pytestmark = [
    needs_space,
    pytest.mark.timeout(3600),
]


def clean():
    """Without the paths of this process, on which pip would find an abd-hub that is installed already."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def run(*command):
    done = subprocess.run([*map(str, command)], env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space's folder and the Python that has its requirements; abd-hub is this checkout's wheel."""
    folder = tmp_path_factory.mktemp("space")
    # Building leaves files beside the sources, so it is done on a copy.
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".*", "tests", "recipes", "build", "*.egg-info"),
    )
    run(sys.executable, "-m", "venv", folder / "environment")
    python = folder / "environment" / "bin" / "python"
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "wheels", source)
    place = shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    install = [python, "-m", "pip", "install", "-q", "--find-links", folder / "wheels"]
    run(*install, "-r", place / "requirements.txt")
    shutil.rmtree(source)
    yield place, python
    shutil.rmtree(folder)


def test_the_space_answers(space, tmp_path):
    place, python = space
    server = subprocess.Popen(
        [python, "app.py"],
        cwd=place,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        line = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + server.stdout.read()
        Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
        *_, cards, numbers = Client(found[0], verbose=False).predict(
            handle_file(str(tmp_path / "black.png")), "badnet_sq", 0, 2, 0, None, api_name="/predict"
        )
        assert [model["name"] for model in numbers["models"]] == ["teacher", "plain", "abd"]
        assert "abd-verdict" in cards
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=300)
        finally:
            server.kill()
