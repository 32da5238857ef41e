"""Pushes by a process of its own to the tests' Hub, and what they must leave alone."""

import dataclasses

from hub_server import NOTHING, READ, WRITE

from abd_hub.core import files
from abd_hub.core.record_file import read_record, record_to_json

NAME = "acme/student"


def with_token(*folders):
    """Files below that hold a token."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    tokens = [token.encode() for token in (READ, WRITE, NOTHING)]
    return [path for path in files if any(token in path.read_bytes() for token in tokens)]


SENT = {
    "README.md",
    "config.json",
    "config.yaml",
    "metrics.json",
    "model.safetensors",
    "samples/curves.png",
    "samples/verdicts_badnets_0.png",
}


def tree(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def push(worker, folder, *more, name=NAME, token=WRITE):
    """What it says; it must succeed, and the folder stay as it was."""
    before = tree(folder)
    done = worker.ask(token, command=["push", str(folder), name, *more])
    assert done["code"] == 0, done
    assert tree(folder) == before
    return done["shown"]


def refused(worker, folder, *more, name=NAME, token=WRITE):
    """The one line that says why."""
    before = tree(folder)
    done = worker.ask(token, command=["push", str(folder), name, *more])
    assert done["code"] == 2, done
    (line,) = done["shown"].splitlines()
    assert "http" not in line and tree(folder) == before
    return line


def change_record(folder, **changes):
    record = dataclasses.replace(read_record(folder), **changes)
    files.write_json(folder / "metrics.json", record_to_json(record))


def make_space(folder, front="sdk: gradio\napp_file: app.py\ntags:\n- abd-hub\n"):
    (folder / "sub" / "__pycache__").mkdir(parents=True)
    contents = {
        "README.md": f"---\n{front}---\n\nA demo.\n",
        "app.py": "print()\n",
        "requirements.txt": "numpy\n",
        "sub/part.py": "x = 1\n",
        "sub/__pycache__/part.pyc": "x",
        ".env": "SECRET=1",
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder
