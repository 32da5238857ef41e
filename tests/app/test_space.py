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

from abd_hub.publish.uploads import read_upload

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
    """The Space's files as a push sends them, and a Python that has its requirements and nothing else."""
    folder = tmp_path_factory.mktemp("space")
    run(sys.executable, "-m", "venv", folder / "environment")
    python = folder / "environment" / "bin" / "python"
    place = folder / "app"
    for name, file in read_upload(ROOT / "app").files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place / name)
    run(python, "-m", "pip", "install", "-q", "-r", place / "requirements.txt")
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
        Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
        *_, cards, numbers = Client(found[0], verbose=False).predict(
            handle_file(str(tmp_path / "black.png")), "badnet_sq", 8, 4, 1, None, api_name="/predict"
        )
        assert [model["name"] for model in numbers["models"]] == ["teacher", "purified", "plain", "protected"]
        assert "abd-verdict" in cards
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=300)
        finally:
            server.kill()
